"""Mask R-CNN (He et al. 2017, arXiv:1703.06870) and its relatives 2+, 3+ and # (Qian et al. 2022, UNet#, Table 2).

An encoder's stages of strides 4 to 32 become a feature pyramid (`feature_pyramid`), whose wiring is all that the four
differ in: `plain` FPN (Mask R-CNN), `nested` (2+), `full_scale` (3+) and `sharp` (#). A region proposal network slides
over the pyramid (`region_proposals`); features of the best proposals are pooled by RoIAlign, and one head gives class
and box of each, another its mask (`region_heads`).
Differs from the papers: images keep their size, and nuclei are small in them, so the anchors begin at 8 px instead of
32 px (and with them the sizes at which regions change the level); encoders are trained from scratch, so their batch
norms live; instead of 100 there may be 256 detections, of which DSB2018 images need more than 100; every image counts
the same in a loss, however many regions are sampled in it. In evaluation mode nothing is drawn: the losses are the
means over all draws. How the skips are redesigned and what fuses them, Qian et al. do not say: see `feature_pyramid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from overread.architectures.blocks import check_input
from overread.architectures.boxes import pyramid_levels, roi_align
from overread.architectures.contract import Losses, Pretrained, Published, Segmenter, architecture
from overread.architectures.encoders import EncoderWeights, build_encoder, check_weights_file
from overread.architectures.feature_pyramid import STRIDES, FeaturePyramid, Stages
from overread.architectures.grid import Wiring
from overread.architectures.heads import check_classes, check_weights, with_background
from overread.architectures.instance_masks import Detections, find_truths
from overread.architectures.region_heads import (
    BOX_CELLS,
    MASK_CELLS,
    BoxHead,
    MaskHead,
    RegionSample,
    ScoredBoxes,
)
from overread.architectures.region_proposals import RegionProposals, Regions
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Batch, Needs, Readings, Variant

ENCODER_LEVELS = {"double_conv": 6, "vgg16": 5, "resnet18": 5, "resnet50": 5, "resnet101": 5}
"""Maps of each encoder down to stride 32 (VGG16: 16, and its last max-pooling)."""


@dataclass(frozen=True, kw_only=True)
class MaskRCNNOptions(JsonRecord):
    """Options of Mask R-CNN; the defaults are the published network with VGG16, and anchors for small objects."""

    wiring: Wiring = "plain"
    """Skips of the pyramid: `plain` is Mask R-CNN, `nested` 2+, `full_scale` 3+, `sharp` #."""
    encoder: Literal["vgg16", "resnet101", "resnet50", "resnet18", "double_conv"] = "vgg16"
    encoder_weights: EncoderWeights | None = None
    """Where a training starts from, such as weights of ImageNet; None: from scratch, as in the paper."""
    width: int = 64
    """Channels of the encoder's first stage; times 4 those of the pyramid, times 16 the hidden ones of the box head."""
    anchor_sides: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 128.0)
    """Root of the area of the anchors of P2..P6, in pixels (published: 32 to 512)."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    anchor_samples: int = 256
    """Anchors per image in the losses of the region proposal network."""
    candidates: int = 1000
    """Boxes that go into one non-maximum suppression: per level, and of all detections of an image."""
    proposals: int = 1000
    """Per image."""
    proposal_overlap: float = 0.7
    """IoU above which a proposal falls to a better one."""
    region_samples: int = 512
    """Regions per image in the losses of the heads."""
    score_threshold: float = 0.05
    """A detection has more."""
    detection_overlap: float = 0.5
    detections: int = 256
    """Per image, at most."""
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        check_weights_file(self.encoder_weights, self.encoder)
        for name in ("width", "anchor_samples", "candidates", "proposals", "region_samples", "detections"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if len(self.anchor_sides) != len(STRIDES) + 1 or not all(side > 0 for side in self.anchor_sides):
            raise UserError(f"anchor_sides must be {len(STRIDES) + 1} sizes > 0, but got {list(self.anchor_sides)}")
        if not self.anchor_ratios or not all(ratio > 0 for ratio in self.anchor_ratios):
            raise UserError(f"anchor_ratios must be > 0 and at least one, but got {list(self.anchor_ratios)}")
        for name in ("proposal_overlap", "score_threshold", "detection_overlap", "mask_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), but got {getattr(self, name)}")


def _published(wiring: str, encoder: str) -> Published:
    return Published(in_channels=3, classes=2, size=(256, 256), options={"wiring": wiring, "encoder": encoder})


@architecture(
    "mask_rcnn",
    paper="He et al. 2017, arXiv:1703.06870; Qian et al. 2022, UNet#",
    options=MaskRCNNOptions,
    published=_published("plain", "vgg16"),
    also={
        "mask_rcnn_2plus": _published("nested", "vgg16"),
        "mask_rcnn_3plus": _published("full_scale", "vgg16"),
        "mask_rcnn_sharp": _published("sharp", "vgg16"),
        "mask_rcnn_resnet101": _published("plain", "resnet101"),
        "mask_rcnn_2plus_resnet101": _published("nested", "resnet101"),
        "mask_rcnn_3plus_resnet101": _published("full_scale", "resnet101"),
        "mask_rcnn_sharp_resnet101": _published("sharp", "resnet101"),
    },
)
class MaskRCNNSegmenter(Segmenter):
    """Mask R-CNN. Inner layers: `stages` (the encoder), `pyramid`, `rpn`, `box_head`, `mask_head`."""

    default_losses = {"rpn_objectness": 1.0, "rpn_box": 1.0, "class": 1.0, "box": 1.0, "mask": 1.0}  # noqa: RUF012

    def __init__(
        self,
        options: MaskRCNNOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.options, self.in_channels = options, in_channels
        self.classes = check_classes(classes)
        self.loss_weights = check_weights(self._loss_weights(losses))
        self.needs = Needs(size_multiple=STRIDES[-1], instances=True)
        channels = 4 * options.width
        levels = ENCODER_LEVELS[options.encoder]
        self.stages = Stages(
            build_encoder(options.encoder, in_channels=in_channels, width=options.width, levels=levels)
        )
        self.pyramid = FeaturePyramid(self.stages.channels, channels=channels, wiring=options.wiring)
        self.rpn = RegionProposals(
            channels,
            sides=options.anchor_sides,
            ratios=options.anchor_ratios,
            strides=(*STRIDES, 2 * STRIDES[-1]),
        )
        self.box_head = BoxHead(channels, 16 * options.width, classes)
        self.mask_head = MaskHead(channels, classes)

    def pretrained(self) -> tuple[Pretrained, ...]:
        """Return the encoder's weights, where the options name them."""
        weights = self.options.encoder_weights
        return (weights.of(self.stages.encoder),) if weights else ()

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `rpn_objectness`, `rpn_box`, `class`, `box`, `mask` and "loss"; in training regions are drawn."""
        if batch.instances is None:
            raise UserError("Mask R-CNN must be trained with instance ids, but the batch has none: add instances/")
        truths = find_truths(batch.instances, batch.soft_targets(self.classes))
        maps, regions = self._look(batch.images)
        random, options = self.training, self.options
        objectness, shifts = regions.losses(
            [truth.boxes for truth in truths], samples=options.anchor_samples, random=random
        )
        samples = [
            RegionSample.draw(proposals, truth, options.region_samples, random=random)
            for proposals, truth in zip(self._propose(regions, batch.images), truths, strict=True)
        ]
        objects = [s.boxes[s.objects] for s in samples]
        classes, deltas = self.box_head(self._pool(maps, [s.boxes for s in samples], batch.images, BOX_CELLS))
        masks = self.mask_head(self._pool(maps, objects, batch.images, MASK_CELLS))
        counts = [len(s.boxes) for s in samples]
        split = list(
            zip(
                samples,
                classes.split(counts),
                deltas.split(counts),
                masks.split([len(o) for o in objects]),
                strict=True,
            )
        )
        terms = {
            "rpn_objectness": objectness,
            "rpn_box": shifts,
            "class": torch.stack([s.class_loss(c) for s, c, _, _ in split]).mean(),
            "box": torch.stack([s.box_loss(d) for s, _, d, _ in split]).mean(),
            "mask": torch.stack([s.mask_loss(m) for s, _, _, m in split]).mean(),
        }
        total = torch.stack([self.loss_weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": total} | {name: value.detach() for name, value in terms.items()}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read a batch: the instances of every image, and as probabilities of a class the best of its detections.

        A pixel's probability is the largest score times mask probability there (`with_background`).
        """
        size = _size(batch.images)
        found = self.detect(batch.images)
        foreground = torch.stack([detections.foreground(size, self.classes) for detections in found])
        return Readings(
            probabilities=with_background(foreground),
            instances=tuple(detections.instances(size, self.options.mask_threshold) for detections in found),
        )

    def detect(self, images: Tensor) -> list[Detections]:
        """Return the detections in every image (B, C, H, W)."""
        maps, regions = self._look(images)
        proposals = self._propose(regions, images)
        counts = [len(boxes) for boxes in proposals]
        classes, deltas = self.box_head(self._pool(maps, proposals, images, BOX_CELLS))
        options = self.options
        found = [
            ScoredBoxes.find(
                *one,
                _size(images),
                score_threshold=options.score_threshold,
                candidates=options.candidates,
                overlap=options.detection_overlap,
                detections=options.detections,
            )
            for one in zip(proposals, classes.split(counts), deltas.split(counts), strict=True)
        ]
        masks = self.mask_head(self._pool(maps, [one.boxes for one in found], images, MASK_CELLS)).sigmoid()
        split = masks.split([len(one.boxes) for one in found])
        return [
            Detections(
                one.boxes, one.scores, one.classes, own[torch.arange(len(own), device=own.device), one.classes - 1]
            )
            for one, own in zip(found, split, strict=True)
        ]

    def _look(self, images: Tensor) -> tuple[list[Tensor], Regions]:
        """Return P2..P6 and the regions that the proposal network sees there."""
        check_input(
            images,
            name="Mask R-CNN",
            in_channels=self.in_channels,
            spatial_dims=2,
            size_multiple=self.needs.size_multiple,
        )
        maps = self.pyramid(self.stages(images))
        return maps, self.rpn(maps)

    def _propose(self, regions: Regions, images: Tensor) -> list[Tensor]:
        options = self.options
        return regions.propose(
            _size(images),
            candidates=options.candidates,
            proposals=options.proposals,
            overlap=options.proposal_overlap,
        )

    def _pool(self, maps: list[Tensor], boxes: list[Tensor], images: Tensor, cells: int) -> Tensor:
        """Return (sum N_b, C, cells, cells) features of the boxes (N_b, 4), each from its level of P2..P5."""
        levels = [pyramid_levels(own, len(STRIDES), self.options.anchor_sides[0]) for own in boxes]
        return roi_align(maps[: len(STRIDES)], boxes, levels, _size(images), cells)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
