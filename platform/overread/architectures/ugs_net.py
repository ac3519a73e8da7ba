"""UGS-Net (Yang, Wang et al. 2023, arXiv:2303.08416): several annotators of a lung nodule, and where they would differ.

A network (published: Attention U-Net) gives R (B, 64, H, W). Three Conv3-BN-ReLU make a map of half its channels each,
and a 1x1 head predicts from it the intersection of the annotators' masks, their union, and a mask between them
(Uncertainty-Aware Module). The Intersection-Union Constraining Module joins the three maps and R
(`intersection_union`); a 1x1 head predicts the segmentation X_S. Union and intersection together are the
Multi-Confidence Mask: what all annotators would mark, and what some would.

Multiple Annotation Fusion Loss: 0.5 L_MCM + 0.5 Phi_a + Phi_b; L_MCM is the cross-entropy of union and intersection,
Phi_a and Phi_b the mean over the annotators of that of the mask between and of X_S. It is linear in its target, so the
mean over annotators is the loss against the mean annotation. Only non-empty contours count (`annotation_targets`).
UGS-Net V1 (MICCAI 2022) and the ablations are settings: `iucm` off joins the maps as V1 does, `phi_a` and `phi_b` off
train on the first annotation, Label_1.

Where the paper is silent: d is the L2 distance at each pixel over the channels; the Gabor filters are 3 x 3 (the code
of V1 has 1 x 1, which is no filter) and the Otsu mask is one (V1 has fixed thresholds): `v1_compat` has V1's. The
settings of V1 and its loss ablations have them, as published; that of the IUCM has this module's.
Differs from the paper: one sigmoid, where V1 applies two; heads start with little foreground (`start_from_prior`).
Several classes: every head has one sigmoid map per foreground class, the features are shared. A class is marked above
1/2, as in the paper, and where several are, as unions may, the likeliest is read (`heads.relation_classes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from overread.architectures.annotation_targets import annotation_targets
from overread.architectures.backbone import BackboneOptions
from overread.architectures.blocks import ConvUnit, convolution, initialise_he
from overread.architectures.contract import Features, Losses, Network, Published, Segmenter, architecture
from overread.architectures.heads import check_classes, check_weights, relation_classes, start_from_prior
from overread.architectures.intersection_union import (
    ANNOTATORS,
    BRANCHES,
    INTERSECTION,
    UNION,
    Distance,
    IntersectionUnion,
)
from overread.errors import UserError
from overread.losses import binary_cross_entropy
from overread.metrics.overlap import Mask
from overread.records import MAIN, Batch, Needs, Readings, Variant

Confidences = NDArray[np.floating[Any]]
DISAGREEMENT = "annotator_disagreement"
"""Score of the predicted union and intersection."""


@dataclass(frozen=True, kw_only=True)
class UGSNetOptions(BackboneOptions):
    """Options of UGS-Net; the defaults are the published backbone, module and loss."""

    backbone: str = "attention_unet"
    iucm: bool = True
    """The Intersection-Union Constraining Module; without it the maps are joined as in UGS-Net V1."""
    phi_a: bool = True
    """The mask between is trained on all annotators, not on the first."""
    phi_b: bool = True
    """The segmentation is trained on all annotators, not on the first."""
    distance: Distance = "per_pixel"
    """Of the IUCM: one distance per pixel or per sample."""
    v1_compat: bool = False
    """The filters of V1's code: Gabor filters of 1 x 1, and fixed thresholds instead of Otsu's."""
    attention_pool: int = 1
    """Self-attention looks at maps max-pooled by this. Of every pixel on every pixel, as published, it is most of a
    step's cost at small width: 2 makes it a quarter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_pool < 1:
            raise UserError(f"attention_pool must be at least 1, but got {self.attention_pool}")


class UGSNet(Network):
    """The wiring. Inner layers: `backbone`, `branches.<branch>`, `joined`.

    >>> network = UGSNet(UGSNetOptions(width=8, backbone_options={"depth": 2}), in_channels=1)
    >>> maps = network.features(torch.zeros(2, 1, 16, 24))
    >>> maps.last.shape, maps.deep["union"].shape
    (torch.Size([2, 8, 16, 24]), torch.Size([2, 4, 16, 24]))
    """

    title = "UGS-Net"

    def __init__(self, options: UGSNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.backbone = options.network(in_channels=in_channels, spatial_dims=spatial_dims)
        self.size_multiple = lcm(self.backbone.size_multiple, options.attention_pool)
        channels = self.backbone.feature_channels
        if channels % 2:
            raise UserError(f"the backbone must have an even number of last maps, but has {channels}: change its width")
        self.feature_channels, self.branch_channels = channels, channels // 2
        self.branches = nn.ModuleDict({name: ConvUnit(2, channels, self.branch_channels) for name in BRANCHES})
        self.joined = IntersectionUnion(
            channels,
            constrained=options.iucm,
            v1_filters=options.v1_compat,
            distance=options.distance,
            pool=options.attention_pool,
        )
        initialise_he(self.branches)
        initialise_he(self.joined)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to the joined map (B, F, H, W); deep: the branches, (B, F / 2, H, W) each."""
        self.check(x)
        whole = self.backbone.features(x).last
        maps = {name: branch(whole) for name, branch in self.branches.items()}
        return Features(self.joined(whole, maps), maps)


def _setting(**options: Any) -> Published:
    return Published(in_channels=3, classes=2, size=(64, 64), options=options)


_V1: dict[str, Any] = {"iucm": False, "phi_a": False, "phi_b": False, "v1_compat": True}


@architecture(
    "ugs_net",
    paper="Yang et al. 2023, arXiv:2303.08416",
    options=UGSNetOptions,
    published=Published(in_channels=1, classes=2, size=(64, 64)),
    network=UGSNet,
    also={
        "ugs_net_v1": _setting(**_V1),
        "ugs_net_phi_a": _setting(**_V1 | {"phi_a": True}),
        "ugs_net_phi_b": _setting(**_V1 | {"phi_b": True}),
        "ugs_net_phi_ab": _setting(**_V1 | {"phi_a": True, "phi_b": True}),
        "ugs_net_iucm": _setting(phi_a=False, phi_b=False),
    },
)
class UGSNetSegmenter(Segmenter):
    """UGS-Net with its heads: `main` is X_S, the alternatives are `annotators`, `union` and `intersection`.

    Published loss: 0.5 `mcm` + 0.5 `phi_a` + `phi_b`; the last two are against Label_1 where the option is off.
    """

    default_losses = {"mcm": 0.5, "phi_a": 0.5, "phi_b": 1.0}  # noqa: RUF012  (a constant of the class)

    def __init__(
        self,
        options: UGSNetOptions,
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
        self.network = UGSNet(options, in_channels=in_channels, spatial_dims=spatial_dims)
        self.needs = Needs(size_multiple=self.network.size_multiple, annotators=True)
        inputs = {MAIN: self.network.feature_channels, **dict.fromkeys(BRANCHES, self.network.branch_channels)}
        self.heads = nn.ModuleDict(
            {
                name: start_from_prior(convolution(spatial_dims, channels, classes - 1, kernel=1), classes)
                for name, channels in inputs.items()
            }
        )

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Map (B, C, H, W) to the logits (B, K - 1, H, W) of X_S, `main`, and of every branch."""
        found = self.network.features(images)
        maps = {MAIN: found.last, **found.deep}
        return {name: head(maps[name]) for name, head in self.heads.items()}

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `mcm`, `phi_a`, `phi_b` and "loss"; of weight 0 or not, every head must get a gradient."""
        logits, truth = self.logits(batch.images), annotation_targets(batch, self.classes)
        union = binary_cross_entropy(logits[UNION], truth.union)
        intersection = binary_cross_entropy(logits[INTERSECTION], truth.intersection)
        terms = {
            "mcm": (union + intersection).mean(),
            "phi_a": binary_cross_entropy(logits[ANNOTATORS], truth.mean if self.options.phi_a else truth.first).mean(),
            "phi_b": binary_cross_entropy(logits[MAIN], truth.mean if self.options.phi_b else truth.first).mean(),
        }
        total = torch.stack([self.loss_weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": total} | {name: value.detach() for name, value in terms.items()}

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return the Dice of predicted union and intersection: low where annotators would differ."""
        return {DISAGREEMENT: (UNION, INTERSECTION)}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read all heads with one forward pass."""
        found = {name: relation_classes(z.float()) for name, z in self.logits(batch.images).items()}

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            yield from ((name, found[name]) for name in BRANCHES)

        return Readings(probabilities=found[MAIN], alternatives=alternatives)


def multi_confidence_mask(union: Confidences, intersection: Confidences, *, hard: bool = False) -> Confidences:
    """Return the MCM (*S) of one class from its predicted union and intersection, probabilities (*S) each.

    Their mean. `hard`: 1 where the intersection is above 1/2 (high confidence), 1/2 where only the union is (low), 0.
    """
    if hard:
        high, low = intersection > 0.5, union > 0.5
        return np.where(high, 1.0, np.where(low, 0.5, 0.0))
    return (union + intersection) / 2


def true_multi_confidence_mask(annotations: Mask) -> Confidences:
    """Return the MCM (*S) of annotations (A, *S) of one class: 1 where all agree on it, 1/2 where some mark it, else 0.

    Empty annotations do not count; the MCM of none is 0 everywhere.
    """
    drawn = annotations[annotations.any(tuple(range(1, annotations.ndim)))]
    if not len(drawn):
        return np.zeros(annotations.shape[1:])
    return multi_confidence_mask(drawn.any(0).astype(float), drawn.all(0).astype(float), hard=True)
