"""UNet# and its relatives (Qian, Zhou, Li, Hu 2022): U-Net, U-Net++, UNet 3+ and UNet# on one grid, 2-D and 3-D.

`grid.Grid` says which node takes what; here every node beyond the encoder is two Conv3-BN-ReLU with `width` * 2^i
channels on the concatenation of its sources, upsampled linearly or max-pooled to its size (Eq. 1, corrected).
`project`: an intra-connection of UNet# is one Conv3 per source node and one shared BN-ReLU, to `width` channels; this
gives the paper's 9.71M. `direct`: it is the source itself, as in the authors' released code and the pruning figure.
Encoders: two Conv3-BN-ReLU per level (the paper's "VGG11"), V-Net (3-D), VGG16 and ResNet101.
Deep supervision: 1x1 heads on X^{0,1..L} and 3x3 heads on X^{i,L-i} against the max-pooled truth, as far as the wiring
has these nodes (U-Net++ has the former alone); the loss is the mean over all heads. `main` then reads the mean of the
level-0 heads (accurate mode), `level_<l>` the head of X^{0,l} alone. `guidance` adds the classification-guided modules.
Differs from the paper: no ReLU after the heads (it would forbid probabilities below 1/2); one sigmoid per class.
V-Net# counts 28,200,641 (`project`) or 28,559,809 (`direct`) instead of 28.37M, which no complete grid gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

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
from overread.architectures.classification_guidance import Guidance, gate, presence_loss
from overread.architectures.contract import (
    Alone,
    Features,
    Losses,
    Network,
    Pretrained,
    Published,
    Segmenter,
    architecture,
)
from overread.architectures.encoders import EncoderWeights, build_encoder, check_weights_file
from overread.architectures.grid import Grid, Node, Source, Wiring, name_of
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
PRESENCE = "presence"
"""Loss term of the classification-guided modules."""
LOADABLE = {"vgg16": 2, "resnet50": 2, "resnet101": 2}
"""Encoders with ImageNet weights, and their first stage in widths: 64 channels at the published width of 32."""


@dataclass(frozen=True, kw_only=True)
class UNetSharpOptions(JsonRecord):
    """Options of the grid; the defaults are the published UNet# without deep supervision."""

    wiring: Wiring = "sharp"
    encoder: Literal["double_conv", "v_net", "vgg16", "resnet50", "resnet101"] = "double_conv"
    encoder_weights: EncoderWeights | None = None
    """Where a training starts from, such as weights of ImageNet; None: from scratch, as in the paper."""
    connection: Literal["project", "direct"] = "project"
    level: int = 4
    """L, the trained pruning level: nodes with i + j <= L exist; sizes must be multiples of 2^L (ResNets: 2^(L+1))."""
    deep_supervision: bool = False
    guidance: bool = False
    """Classification-guided modules on every supervised branch."""
    width: int = 32
    """Channels at full resolution, doubled per level."""
    projection_factor: int = 1
    """Channels of a projected intra-connection, in widths (published in 3-D: 2, which makes 32 channels)."""
    intra: tuple[bool, bool, bool] = (True, True, True)
    """Whether the nodes of level 0, 1 and 2 take intra-connections."""
    project_first: bool = False
    """Project before upsampling: the same weights and a fraction of the cost; Eq. 1 upsamples first."""
    inference: Literal["accurate", "deepest"] = "accurate"
    """What `main` reads with deep supervision: the mean of all level-0 heads (published), or the head of level L alone,
    which is far ahead of the mean while the shallow heads are still learning."""

    def __post_init__(self) -> None:
        check_weights_file(self.encoder_weights, self.encoder)
        if not 1 <= self.level <= 4:
            raise UserError(f"level must be in 1..4, but got {self.level}")
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if self.projection_factor < 1:
            raise UserError(f"projection_factor must be at least 1, but got {self.projection_factor}")

    @property
    def grid(self) -> Grid:
        """The wiring at the trained level."""
        return Grid(self.wiring, self.level, self.intra)


class UNetSharp(Network):
    """The wiring. Inner layers: `encoder` (column 0), `nodes.x<i><j>`, `projections.x<i><j>`, `projection_norm`."""

    title = "UNet#"

    def __init__(self, options: UNetSharpOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.options, self.in_channels, self.spatial_dims = options, in_channels, spatial_dims
        self.grid = options.grid
        self.feature_channels = options.width
        self.projected_channels = options.projection_factor * options.width
        first = LOADABLE.get(options.encoder, 1) * options.width
        self.encoder = build_encoder(
            options.encoder, in_channels=in_channels, width=first, levels=options.level + 1, spatial_dims=spatial_dims
        )
        self.finest = self.encoder.strides[0]
        self.size_multiple = self.encoder.strides[-1]
        nodes = [node for node in self.grid.nodes() if node[1]]
        self.nodes = nn.ModuleDict(
            {name_of(node): DoubleConv(spatial_dims, self.inputs(node), self.channels(node)) for node in nodes}
        )
        self.projections = nn.ModuleDict()
        if options.connection == "project" and options.wiring == "sharp":
            for source in sorted({s.node for node in nodes for s in self.grid.sources(node) if s.intra}):
                projection = convolution(spatial_dims, self.channels(source), self.projected_channels)
                self.projections[name_of(source)] = projection
        # One norm for all projections is what the published count says; none exists where nothing is projected.
        self.projection_norm = (
            normalisation("batch", spatial_dims, self.projected_channels) if self.projections else None
        )
        initialise_he(self)

    def channels(self, node: Node) -> int:
        """Return the output channels of a node."""
        return self.options.width << node[0] if node[1] else self.encoder.channels[node[0]]

    def inputs(self, node: Node) -> int:
        """Return the channels that a node beyond the encoder takes."""
        return sum(self._crossing(source) for source in self.grid.sources(node))

    def _crossing(self, source: Source) -> int:
        """Return the channels that a source adds to a node."""
        return self.projected_channels if self._projected(source) else self.channels(source.node)

    def _projected(self, source: Source) -> bool:
        return source.intra and self.options.wiring == "sharp" and self.options.connection == "project"

    def cost(self, level: int) -> float:
        """Return the multiplications per full-resolution pixel of the nodes up to `level` (projections not counted).

        The encoder counts as two convolutions per level.
        """
        total = 0.0
        for i, j in self.grid.nodes():
            if i + j <= level:
                taken = self.inputs((i, j)) if j else self.encoder.channels[i - 1] if i else self.in_channels
                total += (taken + self.channels((i, j))) * self.channels((i, j)) / 2 ** (self.spatial_dims * i)
        return 3**self.spatial_dims * total

    def branches(self, *, deep: bool) -> list[Node]:
        """Return the supervised nodes: X^{0,L}, or X^{0,1..L} and the diagonal X^{i,L-i} as far as they exist."""
        top = self.options.level
        inner = [(0, j) for j in range(1, top)] if deep and self.grid.nested else []
        diagonal = [(i, top - i) for i in range(1, top + 1)] if deep and self.options.wiring != "nested" else []
        return [*inner, (0, top), *diagonal]

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, *S) to X^{0,l} (B, width, *S); deep: X^{0,1..l} (B, width, *S) and the diagonal X^{i,l-i}.

        l is the variant's `level`, or L; decoder nodes above it are not computed. Maps of level 0 have the full size.
        """
        self.check(x)
        level = self.options.level if variant is None else variant.options.get("level", self.options.level)
        maps: dict[Node, Tensor] = {(i, 0): found for i, found in enumerate(self.encoder(x)[: level + 1])}
        for node in self.grid.nodes():
            if node[1] and sum(node) <= level:
                taken = [self._take(source, maps[source.node]) for source in self.grid.sources(node)]
                maps[node] = self.nodes[name_of(node)](torch.cat(taken, 1))
        if self.finest > 1:
            for j in range(1, level + 1):
                if (0, j) in maps:
                    maps[0, j] = upsample(maps[0, j], self.finest, align_corners=True)
        supervised = {node for node in maps if node[1] and not node[0]} | {(i, level - i) for i in range(level + 1)}
        return Features(maps[0, level], {name_of(node): maps[node] for node in sorted(supervised)})

    def _take(self, source: Source, x: Tensor) -> Tensor:
        """Return a source's map at the size of its taker."""
        if source.rise < 0:
            return max_pool(x, 2**-source.rise)
        if source.rise == 0:
            return x
        factor = 2**source.rise
        if not self._projected(source):
            return upsample(x, factor, align_corners=True)
        if self.options.project_first:
            return upsample(self._project(source.node, x), factor, align_corners=True)
        return self._project(source.node, upsample(x, factor, align_corners=True))

    def _project(self, source: Node, x: Tensor) -> Tensor:
        assert self.projection_norm is not None  # noqa: S101  (exists wherever a projection does)
        return F.relu(self.projection_norm(self.projections[name_of(source)](x)), inplace=True)


def _settings() -> dict[str, Published]:
    """Return the other models of the paper: Table 1 (2-D and 3-D), Table 2's backbones and Table 3's guidance."""
    plain: dict[str, Any] = {"wiring": "plain"}
    nested: dict[str, Any] = {"wiring": "nested"}
    full: dict[str, Any] = {"wiring": "full_scale"}
    deep: dict[str, Any] = {"deep_supervision": True}
    flat: dict[str, dict[str, Any]] = {
        "unet_32": plain,
        "wide_unet": plain | {"width": 35},
        "unet_2plus": nested,
        "unet_2plus_deep": nested | deep,
        "unet_3plus": full,
        "unet_3plus_deep": full | deep,
        "unet_sharp_deep": deep,
        "unet_sharp_direct": {"connection": "direct"},
        "unet_sharp_guided": deep | {"guidance": True},
        "unet_vgg16": plain | {"encoder": "vgg16"},
        "unet_resnet101": plain | {"encoder": "resnet101"},
        "unet_sharp_vgg16": {"encoder": "vgg16"},
        "unet_sharp_resnet101": {"encoder": "resnet101"},
    }
    volume = {"encoder": "v_net", "width": 16, "projection_factor": 2}
    solid: dict[str, dict[str, Any]] = {
        "v_net": plain,
        "wide_v_net": plain | {"width": 18},
        "v_net_2plus": nested,
        "v_net_2plus_deep": nested | deep,
        "v_net_3plus": full,
        "v_net_3plus_deep": full | deep,
        "v_net_sharp": {},
        "v_net_sharp_deep": deep,
        "v_net_sharp_direct": {"connection": "direct"},
    }
    return {
        **{name: Published(in_channels=3, classes=2, size=(96, 96), options=options) for name, options in flat.items()},
        **{
            name: Published(in_channels=1, classes=2, size=(64, 64, 64), options=volume | options)
            for name, options in solid.items()
        },
    }


@architecture(
    "unet_sharp",
    paper="Qian et al. 2022, UNet#: A UNet-like redesigning skip connections for medical image segmentation",
    options=UNetSharpOptions,
    published=Published(in_channels=3, classes=2, size=(96, 96)),
    spatial_dims=(2, 3),
    axes=("level",),
    network=UNetSharp,
    also=_settings(),
)
class UNetSharpSegmenter(Segmenter):
    """The grid with its heads. Published loss: 0.5 focal + Dice + 0.5 Lovász, averaged over the supervised branches.

    With `guidance` the term `presence` is added: whether a branch says rightly which classes the image has.
    """

    default_losses = SIGMOID_LOSSES | {PRESENCE: 1.0}
    gates_masks = True
    """Whether guidance switches masks off in readings; see `ungated`."""

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
        weights = self._loss_weights(losses)
        self.presence_weight = self._check_presence(weights.pop(PRESENCE))
        self.loss_weights = check_weights(weights)
        self.network = UNetSharp(options, in_channels=in_channels, spatial_dims=spatial_dims)
        self.needs = Needs(size_multiple=self.network.size_multiple)
        self.heads, self.guides = nn.ModuleDict(), nn.ModuleDict()
        for node in self.branches():
            channels = self.network.channels(node)
            head = convolution(spatial_dims, channels, classes - 1, kernel=3 if node[0] else 1)
            self.heads[name_of(node)] = start_from_prior(head, classes)
            if options.guidance:
                hidden = node[0] >= max(options.level - 1, 1)
                self.guides[name_of(node)] = Guidance(channels, classes - 1, hidden=hidden)

    def _check_presence(self, weight: float) -> float:
        """Return the weight of `presence`: the modules learn from nothing else, and without them it has no meaning."""
        if self.options.guidance and not weight > 0:
            raise UserError(f"loss weight presence must be > 0 with guidance, which learns from it, but got {weight}")
        if not self.options.guidance and weight not in (0.0, self.default_losses[PRESENCE]):
            raise UserError(
                f"loss weight presence must come with guidance, but got {weight} without: switch guidance on, or leave "
                "presence out"
            )
        return weight

    def pretrained(self) -> tuple[Pretrained, ...]:
        """Return the encoder's weights, where the options name them."""
        weights = self.options.encoder_weights
        return (weights.of(self.network.encoder),) if weights else ()

    def branches(self) -> list[Node]:
        """Return the supervised nodes."""
        return self.network.branches(deep=self.options.deep_supervision)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `focal`, `dice` and `lovasz` (where weighted), `presence` (guided) and "loss": means over branches."""
        maps = self.network.features(batch.images).deep
        truth = batch.soft_targets(self.classes)[:, 1:]
        targets = {truth.shape[-1]: truth}
        losses: list[Losses] = []
        for name, head in self.heads.items():
            size = maps[name].shape[-1]
            if size not in targets:
                targets[size] = max_pool(truth, truth.shape[-1] // size)
            losses.append(sigmoid_losses(head(maps[name]), targets[size], self.loss_weights))
            if self.options.guidance:
                presence = presence_loss(self.guides[name](maps[name]), truth).mean()
                losses[-1][PRESENCE] = presence.detach()
                losses[-1]["loss"] = losses[-1]["loss"] + self.presence_weight * presence
        return {term: torch.stack([branch[term] for branch in losses]).mean() for term in losses[0]}

    def variants(self) -> tuple[Variant, ...]:
        """Return `main` and, with deep supervision of a nested wiring, `accurate` and `level_<l>` for every l <= L."""
        main = Variant(name=MAIN)
        if len(self._level_heads()) < 2:
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
        main = with_background(*(torch.stack(chosen).mean(0) if len(chosen) > 1 else chosen[0]))

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            if len(self._level_heads()) > 1:
                for name, foreground in foregrounds.items():
                    yield name, with_background(*foreground)

        return Readings(probabilities=main, alternatives=alternatives)

    @contextmanager
    def ungated(self) -> Iterator[None]:
        """Read with the masks that guidance would switch off, to see what it does. For one thread, as reading is."""
        self.gates_masks = False
        try:
            yield
        finally:
            self.gates_masks = True

    def _level_heads(self) -> list[int]:
        """Return the levels l with a head on X^{0,l}."""
        return [node[1] for node in self.branches() if node[0] == 0]

    def _heads_read(self, variant: Variant | None) -> list[str]:
        """Return the names of the level-0 heads whose mean a variant reads."""
        top = self.options.level
        name = variant.name if variant else MAIN
        if name == MAIN and self.options.inference == "deepest":
            return [f"level_{top}"]
        if name in (MAIN, ACCURATE):
            return [f"level_{level}" for level in self._level_heads()]
        return [name]

    def _foregrounds(self, images: Tensor, variant: Variant | None) -> dict[str, Tensor]:
        """Return p and 1 - p (2, B, K - 1, *S) of all level-0 heads up to the variant's level, by `level_<l>`.

        p is the sigmoid; with guidance it is 0 throughout where its branch says that the image has none of the class.
        """
        maps = self.network.features(images, variant).deep
        found = {}
        for level in self._level_heads():
            name = name_of((0, level))
            if name in maps:
                logits = self.heads[name](maps[name]).float()
                present, absent = logits.sigmoid(), (-logits).sigmoid()
                if self.options.guidance and self.gates_masks:
                    opened = gate(self.guides[name](maps[name]), self.network.spatial_dims)
                    present, absent = present * opened, absent * opened + (1 - opened)
                found[f"level_{level}"] = torch.stack([present, absent])
        return found

    def alone(self, variant: Variant) -> Alone | None:
        """Return the pruned network of a level (none for the mean of several heads, which needs them all)."""
        heads = self._heads_read(variant)
        if len(heads) > 1 or (len(self.heads) == 1 and variant.name == MAIN):
            return None
        small = self.pruned(int(heads[0].removeprefix("level_")))
        return Alone(small.options.to_json(), small)

    def pruned(self, level: int) -> UNetSharpSegmenter:
        """Return the smaller network of `level` with its trained weights: its `main` equals `level_<level>` here."""
        trained = self._level_heads()
        if level not in trained:
            known = ", ".join(map(str, trained))
            raise UserError(f"level must be one with a trained head ({known}), but got {level}")
        with torch.device("meta"):  # no weights are drawn: the random state of the caller stays as it is
            small = UNetSharpSegmenter(
                replace(self.options, level=level, deep_supervision=False),
                in_channels=self.network.in_channels,
                classes=self.classes,
                spatial_dims=self.network.spatial_dims,
                losses=self.loss_weights | {PRESENCE: self.presence_weight},
            )
        own = self.state_dict()
        small.load_state_dict({name: own[name].clone() for name in small.state_dict()}, assign=True)
        return small.train(self.training)
