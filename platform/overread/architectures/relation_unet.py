"""Relation U-Net (He, Bao, Grant, Ou 2025): a network that segments two images and how their masks relate.

A U-Net takes the pair (x1, x2), concatenated over the channels, and has four 1x1 heads on its last map: the masks s1
and s2, their Possible r^p = s1 or s2 and their Consensus r^c = s1 and s2. Trained with the mean of the four
cross-entropies on pairs of independent permutations. Read with x1 = x2 = x all four should be equal: `main` is
(s1 + s2) / 2 and the score `relation_unet_c` is C = Dice(r^p, r^c). Read with anchors, x2 = other images, `main` is s1,
its probabilities averaged over the anchors; C says nothing then, as r^p and r^c rightly differ.
Beyond the paper: any Network may be the backbone, in 2-D and 3-D (a U-Netmer is carried at its smallest scale alone:
give it `scales` [1]). With several foreground classes the relations are formed per class, where they may overlap:
their heads have one sigmoid per foreground class, marked above 1/2, and read as the likeliest class where they overlap
(`heads.relation_classes`): C leaves overlaps out. Soft labels have r^p = max and r^c = min, so that r^p + r^c = s1 + s2
holds and a pair of equal labels has both relations equal to them. The paper sums its losses; the mean of them keeps
the learning rate that of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overread.architectures.backbone import BackboneOptions
from overread.architectures.blocks import convolution
from overread.architectures.contract import Losses, Published, Segmenter, architecture
from overread.architectures.heads import check_classes, check_weights, relation_classes, start_from_prior
from overread.errors import UserError
from overread.losses import binary_cross_entropy, cross_entropy
from overread.records import Batch, Needs, Readings, Variant

MASKS = ("s1", "s2")
RELATIONS = ("possible", "consensus")
HEADS = (*MASKS, *RELATIONS)
PAIRS = 16
"""Pairs in one forward pass with anchors, unless the batch alone has more: bounds the memory for any number of them."""


@dataclass(frozen=True, kw_only=True)
class RelationUNetOptions(BackboneOptions):
    """Options of Relation U-Net: those of its backbone; the defaults are the published U-Net."""


def relation_targets(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Return Possible and Consensus of two labels: the larger and the smaller share, voxel by voxel and per class.

    >>> relation_targets(torch.tensor([0.0, 1.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, 1.0, 0.25]))["consensus"].tolist()
    [0.0, 0.0, 1.0, 0.25]
    """
    return {"possible": torch.maximum(first, second), "consensus": torch.minimum(first, second)}


@architecture(
    "relation_unet",
    paper="He et al. 2025, Relation U-Net",
    options=RelationUNetOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
)
class RelationUNetSegmenter(Segmenter):
    """Any Network on a pair of images, with heads for both masks and their relations."""

    default_losses = dict.fromkeys(HEADS, 1 / len(HEADS))

    def __init__(
        self,
        options: RelationUNetOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.classes = check_classes(classes)
        self.loss_weights = check_weights(self._loss_weights(losses))
        self.network = options.network(in_channels=2 * in_channels, spatial_dims=spatial_dims)
        self.heads = nn.ModuleDict()
        for name in HEADS:
            outputs = classes - 1 if name in RELATIONS and classes > 2 else classes
            head = convolution(spatial_dims, self.network.feature_channels, outputs, kernel=1)
            self.heads[name] = start_from_prior(head, classes)
        self.needs = Needs(size_multiple=self.network.size_multiple, pairs=True)

    def logits(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Map two images (B, C, *S) to the float32 logits of every head, (B, K or K - 1, *S)."""
        last = self.network.features(torch.cat([first, second], 1)).last
        return {name: head(last).float() for name, head in self.heads.items()}

    def activate(self, logits: Tensor) -> Tensor:
        """Return class probabilities (B, K, *S) of any head: softmax of K maps, sigmoids of K - 1."""
        if logits.shape[1] == self.classes:
            return logits.softmax(1)
        return relation_classes(logits)

    def targets(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return what each head learns, of the labels (B, K, *S) of both images: as many maps as the head has."""
        relations = relation_targets(first[:, 1:], second[:, 1:])
        if self.classes == 2:
            relations = {name: torch.cat([1 - found, found], 1) for name, found in relations.items()}
        return {"s1": first, "s2": second, **relations}

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return the cross-entropy of every head and "loss"; a head of weight 0 gets a gradient of 0.

        Batches without a partner raise `UserError`.
        """
        if batch.partner is None:
            raise UserError("a batch of Relation U-Net must have a partner, but it has none: draw pairs")
        targets = self.targets(batch.soft_targets(self.classes), batch.partner.soft_targets(self.classes))
        logits = self.logits(batch.images, batch.partner.images)
        losses = {name: self._cross_entropy(logits[name], targets[name]).mean() for name in HEADS}
        total = torch.stack([self.loss_weights[name] * losses[name] for name in HEADS]).sum()
        return {"loss": total} | {name: value.detach() for name, value in losses.items()}

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (B,): of the softmax of K maps, or the mean of the binary ones of K - 1 sigmoids."""
        if logits.shape[1] == self.classes:
            return cross_entropy(logits, targets)
        return binary_cross_entropy(logits, targets)

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return C of the pair (x, x)."""
        return {"relation_unet_c": RELATIONS}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read every image paired with itself, or with each of the anchors.

        Without anchors the alternatives are `s1`, `s2`, `possible` and `consensus`. With them they are `anchor_<i>`, s1
        given the i-th (each computed when it is asked for). Anchors are images of any number, of the channels and sizes
        of the batch, that is, cut to the window by the caller; others raise `UserError`. Their labels are ignored.
        """
        if anchors is not None:
            return self._read_with(anchors.images, batch.images)
        logits = self.logits(batch.images, batch.images)

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            for name in HEADS:
                yield name, self.activate(logits[name])

        first, second = (self.activate(logits[name]) for name in MASKS)
        return Readings(probabilities=(first + second) / 2, alternatives=alternatives)

    def _read_with(self, anchors: Tensor, images: Tensor) -> Readings:
        if not len(anchors) or anchors.shape[1:] != images.shape[1:]:
            raise UserError(
                f"anchors must be one or more images of {tuple(images.shape[1:])}, the channels and sizes of what is "
                f"read, but got {tuple(anchors.shape)}: cut or pad them to the window"
            )

        def given() -> Iterator[tuple[str, Tensor]]:
            index = 0
            for some in torch.split(anchors, max(1, PAIRS // len(images))):
                first = images.repeat(len(some), *[1] * (images.ndim - 1))
                second = some.repeat_interleave(len(images), 0)
                masks = self.activate(self.logits(first, second)["s1"])
                for read in torch.split(masks, len(images)):
                    index += 1
                    yield f"anchor_{index}", read

        def mean() -> Tensor:
            total = torch.zeros((), device=images.device)
            for _, read in given():
                total = total + read
            return total / len(anchors)

        return Readings(probabilities=mean, alternatives=given)
