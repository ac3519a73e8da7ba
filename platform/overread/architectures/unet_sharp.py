"""UNet# (Qian, Zhou, Li, Hu 2022): a nested grid with dense skips per level and intra-connections across levels.

Nodes X^{i,j}, level i (0 = full resolution), column j, i + j <= L. X^{i,0} is the encoder; for j >= 1 a node takes all
earlier nodes of its level, the x2 upsampled X^{i+1,j-1}, and for j >= 2 the intra-connections f(u(X^{i+k,j-k})),
k = 2..j, upsampled by 2^k (Eq. 1, corrected). Every node is two Conv3-BN-ReLU with `width` * 2^i channels.
`project`: f is one Conv3 per source node and one shared BN-ReLU, to `width` channels; this gives the paper's 9.71M.
`direct`: f is the identity, as in the authors' released code and the paper's pruning figure.
Deep supervision: 1x1 heads on X^{0,1..L} and 3x3 heads on X^{i,L-i} against the max-pooled truth; the loss is the mean
over all heads. `main` then reads the mean of the level-0 heads (accurate mode), `level_<l>` the head of X^{0,l} alone.
Differs from the paper: no ReLU after the heads (it would forbid probabilities below 1/2); one sigmoid per class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import (
    DoubleConv,
    convolution,
    initialise_he,
    max_pool,
    normalisation,
    upsample,
)
from overread.architectures.contract import Features, Losses, Network, Published, Segmenter, architecture
from overread.architectures.heads import (
    SIGMOID_LOSSES,
    check_classes,
    check_weights,
    sigmoid_losses,
    start_from_prior,
    with_background,
)
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import MAIN, Batch, Needs, Readings, Variant

ACCURATE = "accurate"
"""Variant that reads the mean of all level-0 heads."""
Node = tuple[int, int]
"""(level i, column j)."""


@dataclass(frozen=True, kw_only=True)
class UNetSharpOptions(JsonRecord):
    """Options of UNet#; the defaults are the published model without deep supervision."""

    connection: Literal["project", "direct"] = "project"
    level: int = 4
    """L, the trained pruning level: nodes with i + j <= L exist; sizes must be multiples of 2^L."""
    deep_supervision: bool = False
    width: int = 32
    """Channels at full resolution, doubled per level; also those of a projected intra-connection."""
    intra: tuple[bool, bool, bool] = (True, True, True)
    """Whether the nodes of level 0, 1 and 2 take intra-connections."""
    project_first: bool = False
    """Project before upsampling: the same weights and a fraction of the cost; Eq. 1 upsamples first."""
    inference: Literal["accurate", "deepest"] = "accurate"
    """What `main` reads with deep supervision: the mean of all level-0 heads (published), or the head of level L alone,
    which is far ahead of the mean while the shallow heads are still learning."""

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 4:
            raise UserError(f"level must be in 1..4, but got {self.level}")
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")


def name_of(node: Node) -> str:
    """Return `x<i><j>`, the name of a node in the weights."""
    return f"x{node[0]}{node[1]}"


def nodes_up_to(level: int) -> Iterator[Node]:
    """Yield the nodes with i + j <= level, each after all nodes it takes; a lower level is a prefix."""
    for diagonal in range(level + 1):
        for column in range(diagonal + 1):
            yield diagonal - column, column


class UNetSharp(Network):
    """The wiring of UNet#. Inner layers: `nodes.x<i><j>`, `projections.x<i><j>`, `projection_norm`."""

    title = "UNet#"

    def __init__(self, options: UNetSharpOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.options, self.in_channels, self.spatial_dims = options, in_channels, spatial_dims
        self.feature_channels = options.width
        self.size_multiple = 2**options.level
        nodes = list(nodes_up_to(options.level))
        self.nodes = nn.ModuleDict(
            {name_of(node): DoubleConv(spatial_dims, self.inputs(node), self.channels(node)) for node in nodes}
        )
        self.projections = nn.ModuleDict()
        if options.connection == "project":
            for source in sorted({source for node in nodes for source in self.intra_sources(node)}):
                self.projections[name_of(source)] = convolution(spatial_dims, self.channels(source), options.width)
        # One norm for all projections is what the published count says; none exists where nothing is projected.
        self.projection_norm = normalisation("batch", spatial_dims, options.width) if self.projections else None
        initialise_he(self)

    def channels(self, node: Node) -> int:
        """Return the output channels of a node."""
        return self.options.width << node[0]

    def intra_sources(self, node: Node) -> list[Node]:
        """Return the sources of a node's intra-connections: the anti-diagonal two and more levels below."""
        level, column = node
        if column < 2 or not self.options.intra[level]:
            return []
        return [(level + k, column - k) for k in range(2, column + 1)]

    def inputs(self, node: Node) -> int:
        """Return the input channels of a node."""
        level, column = node
        if column == 0:
            return self.channels((level - 1, 0)) if level else self.in_channels
        intra = self.intra_sources(node)
        projected = self.options.connection == "project"
        crossing = len(intra) * self.options.width if projected else sum(self.channels(source) for source in intra)
        return column * self.channels(node) + self.channels((level + 1, column - 1)) + crossing

    def cost(self, level: int) -> float:
        """Return the multiplications per full-resolution pixel of the nodes up to `level` (projections not counted)."""
        weights = (
            (self.inputs(node) + self.channels(node)) * self.channels(node) / 4 ** node[0]
            for node in nodes_up_to(level)
        )
        return 9 * sum(weights)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to X^{0,l} (B, width, H, W); deep: X^{0,1..l} and the diagonal X^{i,l-i}.

        l is the variant's `level`, or L. Nodes above it are not computed.
        """
        self.check(x)
        level = self.options.level if variant is None else variant.options.get("level", self.options.level)
        maps: dict[Node, Tensor] = {}
        for node in nodes_up_to(level):
            maps[node] = self._node(node, x, maps)
        supervised = [(0, j) for j in range(1, level + 1)] + [(i, level - i) for i in range(1, level + 1)]
        return Features(maps[0, level], {name_of(node): maps[node] for node in supervised})

    def _node(self, node: Node, x: Tensor, maps: Mapping[Node, Tensor]) -> Tensor:
        level, column = node
        block = self.nodes[name_of(node)]
        if column == 0:
            return block(max_pool(maps[level - 1, 0]) if level else x)
        dense = [maps[level, j] for j in range(column)]
        below = upsample(maps[level + 1, column - 1], align_corners=True)
        intra = [self._cross(source, maps[source], 2 ** (source[0] - level)) for source in self.intra_sources(node)]
        return block(torch.cat([*dense, below, *intra], 1))

    def _cross(self, source: Node, x: Tensor, factor: int) -> Tensor:
        """Return the intra-connection from `source`, upsampled by `factor`."""
        if self.options.connection == "direct":
            return upsample(x, factor, align_corners=True)
        if self.options.project_first:
            return upsample(self._project(source, x), factor, align_corners=True)
        return self._project(source, upsample(x, factor, align_corners=True))

    def _project(self, source: Node, x: Tensor) -> Tensor:
        assert self.projection_norm is not None  # noqa: S101  (exists wherever a projection does)
        return F.relu(self.projection_norm(self.projections[name_of(source)](x)), inplace=True)


@architecture(
    "unet_sharp",
    paper="Qian et al. 2022, UNet#: A UNet-like redesigning skip connections for medical image segmentation",
    options=UNetSharpOptions,
    published=Published(in_channels=3, classes=2, size=(96, 96)),
    axes=("level",),
    network=UNetSharp,
)
class UNetSharpSegmenter(Segmenter):
    """UNet# with its heads. Published loss: 0.5 focal + Dice + 0.5 Lovász, averaged over the supervised branches."""

    default_losses = SIGMOID_LOSSES

    def __init__(
        self,
        options: UNetSharpOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        self.classes = check_classes(classes)
        self.loss_weights = check_weights(self._loss_weights(losses))
        self.network = UNetSharp(options, in_channels=in_channels)
        self.needs = Needs(size_multiple=self.network.size_multiple)
        self.heads = nn.ModuleDict(
            {
                name_of(node): start_from_prior(
                    convolution(2, self.network.channels(node), classes - 1, kernel=3 if node[0] else 1), classes
                )
                for node in self.branches()
            }
        )

    def branches(self) -> list[Node]:
        """Return the supervised nodes: X^{0,L}, or with deep supervision X^{0,1..L} and the diagonal X^{i,L-i}."""
        top = self.options.level
        if not self.options.deep_supervision:
            return [(0, top)]
        return [(0, j) for j in range(1, top + 1)] + [(i, top - i) for i in range(1, top + 1)]

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `focal`, `dice`, `lovasz` (where weighted) and "loss", each the mean over the branches."""
        maps = self.network.features(batch.images).deep
        targets = [batch.soft_targets(self.classes)[:, 1:]]
        for _ in range(self.options.level if self.options.deep_supervision else 0):
            targets.append(max_pool(targets[-1]))
        losses = [
            sigmoid_losses(self.heads[name_of(node)](maps[name_of(node)]), targets[node[0]], self.loss_weights)
            for node in self.branches()
        ]
        return {term: torch.stack([branch[term] for branch in losses]).mean() for term in losses[0]}

    def variants(self) -> tuple[Variant, ...]:
        """Return `main` and, with deep supervision, `accurate` and `level_<l>` for every l up to the trained level."""
        main = Variant(name=MAIN)
        if not self.options.deep_supervision:
            return (main,)
        whole = self.network.cost(self.options.level)
        levels = range(1, self.options.level + 1)
        return (
            main,
            Variant(name=ACCURATE),
            *(Variant(name=f"level_{n}", options={"level": n}, cost=self.network.cost(n) / whole) for n in levels),
        )

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read with one forward pass; with deep supervision the alternatives are the heads of the levels computed."""
        foregrounds = self._foregrounds(batch.images, variant)
        chosen = [foregrounds[head] for head in self._heads_read(variant)]
        main = with_background(torch.stack(chosen).mean(0) if len(chosen) > 1 else chosen[0])

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            if self.options.deep_supervision:
                for name, foreground in foregrounds.items():
                    yield name, with_background(foreground)

        return Readings(probabilities=main, alternatives=alternatives)

    def _heads_read(self, variant: Variant | None) -> list[str]:
        """Return the names of the level-0 heads whose mean a variant reads."""
        top = self.options.level
        name = variant.name if variant else MAIN
        if name == MAIN and (self.options.inference == "deepest" or not self.options.deep_supervision):
            return [f"level_{top}"]
        if name in (MAIN, ACCURATE):
            return [f"level_{level}" for level in range(1, top + 1)]
        return [name]

    def _foregrounds(self, images: Tensor, variant: Variant | None) -> dict[str, Tensor]:
        """Return the sigmoid maps (B, K - 1, H, W) of all level-0 heads up to the variant's level, by `level_<l>`."""
        maps = self.network.features(images, variant).deep
        return {
            f"level_{j}": self.heads[name_of((0, j))](maps[name_of((0, j))]).float().sigmoid()
            for j in range(1, self.options.level + 1)
            if name_of((0, j)) in maps and name_of((0, j)) in self.heads
        }

    def pruned(self, level: int) -> UNetSharpSegmenter:
        """Return the smaller network of `level` with its trained weights: its `main` equals `level_<level>` here."""
        trained = {f"x0{n}" for n in range(1, self.options.level + 1)} & set(self.heads)
        if f"x0{level}" not in trained:
            known = ", ".join(sorted(name[2:] for name in trained))
            raise UserError(f"level must be one with a trained head ({known}), but got {level}")
        with torch.device("meta"):  # no weights are drawn: the random state of the caller stays as it is
            small = UNetSharpSegmenter(
                replace(self.options, level=level, deep_supervision=False),
                in_channels=self.network.in_channels,
                classes=self.classes,
                losses=self.loss_weights,
            )
        own = self.state_dict()
        small.load_state_dict({name: own[name].clone() for name in small.state_dict()}, assign=True)
        return small.train(self.training)
