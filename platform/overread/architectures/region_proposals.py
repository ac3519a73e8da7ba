"""Region proposal network (Faster R-CNN, Ren et al. 2015, arXiv:1506.01497) over the levels of a feature pyramid.

One small head slides over every level: a Conv3, and for each anchor of a cell whether an object is there and the way
from the anchor to its box. Every level has anchors of one size, in a few ratios (FPN, section 4.1).
Losses are means over the sampled anchors of an image, then over images. Shapes: B images, N anchors of all levels in
the order of level, row, column, ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import convolution, initialise_he
from overread.architectures.boxes import anchors, box_iou, clip, decode, encode, match, nms, sampling_weights

ANCHOR_IOU = (0.3, 0.7)
"""An anchor below the first is background, from the second on an object (Faster R-CNN, section 3.1.2)."""
OBJECT_SHARE = 0.5
"""Largest share of objects among the sampled anchors."""
BETA = 1 / 9
"""Where the smooth L1 loss of boxes turns from square to linear (Faster R-CNN's released code)."""
PROPOSAL_SIDE = 1e-3
"""Of a proposal, in pixels: a box beyond the border is cut to nothing, and nothing is never thinned by NMS."""
PLAIN = (1.0, 1.0, 1.0, 1.0)
"""Weights of the coded boxes."""


@dataclass(frozen=True)
class Regions:
    """What the network says of every anchor."""

    anchors: tuple[Tensor, ...]
    """Per level (n, 4)."""
    objectness: Tensor
    """(B, N) float32 logits."""
    deltas: Tensor
    """(B, N, 4) float32."""

    def propose(self, size: tuple[int, int], *, candidates: int, proposals: int, overlap: float) -> list[Tensor]:
        """Return for every image the boxes (P, 4) worth a closer look, by falling objectness, without gradients.

        Of every level the `candidates` best anchors are moved to their boxes, cut to the image of `size` (those outside
        fall) and thinned by NMS at IoU `overlap`; the `proposals` best of all levels remain.
        """
        with torch.no_grad():
            return [self._propose(image, size, candidates, proposals, overlap) for image in range(len(self.deltas))]

    def _propose(self, image: int, size: tuple[int, int], candidates: int, proposals: int, overlap: float) -> Tensor:
        lengths = [len(own) for own in self.anchors]
        objectness = self.objectness[image].split_with_sizes(lengths)
        moves = self.deltas[image].split_with_sizes(lengths)
        boxes, scores = [], []
        for own, logits, deltas in zip(self.anchors, objectness, moves, strict=True):
            best = logits.argsort(descending=True, stable=True)[:candidates]
            moved = clip(decode(deltas[best], own[best], PLAIN), size)
            inside = (moved[:, 2:] - moved[:, :2]).amin(1) >= PROPOSAL_SIDE
            moved, ranks = moved[inside], logits[best][inside]
            stays = nms(moved, ranks, overlap)
            boxes.append(moved[stays])
            scores.append(ranks[stays])
        order = torch.cat(scores).argsort(descending=True, stable=True)[:proposals]
        return torch.cat(boxes)[order]

    def losses(self, truths: Sequence[Tensor], *, samples: int, random: bool) -> tuple[Tensor, Tensor]:
        """Return the objectness and box losses for the true boxes (G, 4) of every image (`sampling_weights`)."""
        boxes = torch.cat(self.anchors)
        objectness, shifts = [], []
        for true, logits, deltas in zip(truths, self.objectness, self.deltas, strict=True):
            matched = match(box_iou(true, boxes), *ANCHOR_IOU, best=True)
            weights = sampling_weights(matched, samples, OBJECT_SHARE, random=random)
            total = weights.sum().clamp_min(1)
            rows = (matched >= 0).nonzero()[:, 0]
            entropy = F.binary_cross_entropy_with_logits(logits, (matched >= 0).float(), weights, reduction="sum")
            wanted = encode(true[matched[rows]], boxes[rows], PLAIN)
            errors = F.smooth_l1_loss(deltas[rows], wanted, reduction="none", beta=BETA).sum(1)
            objectness.append(entropy / total)
            shifts.append((errors * weights[rows]).sum() / total)
        return torch.stack(objectness).mean(), torch.stack(shifts).mean()


class RegionProposals(nn.Module):
    """The head. Inner layers: `shared` (Conv3), `objectness` and `deltas` (1x1)."""

    def __init__(
        self, channels: int, *, sides: Sequence[float], ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.sides, self.ratios, self.strides = tuple(sides), tuple(ratios), tuple(strides)
        self.shared = convolution(2, channels, channels)
        self.objectness = convolution(2, channels, len(ratios), kernel=1)
        self.deltas = convolution(2, channels, 4 * len(ratios), kernel=1)
        initialise_he(self)
        for last in (self.objectness, self.deltas):  # start undecided, at the anchors
            nn.init.normal_(last.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Regions:
        """Map the levels (B, channels, h, w) to the regions of every image."""
        objectness, deltas, boxes = [], [], []
        for x, side, stride in zip(maps, self.sides, self.strides, strict=True):
            shared = self.shared(x).relu()
            # (B, A * n, h, w) to (B, h * w * A, n)
            objectness.append(self.objectness(shared).float().permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(shared).float().permute(0, 2, 3, 1).reshape(len(x), -1, 4))
            boxes.append(anchors((x.shape[2], x.shape[3]), stride, side, self.ratios, x.device))
        return Regions(tuple(boxes), torch.cat(objectness, 1), torch.cat(deltas, 1))
