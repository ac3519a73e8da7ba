"""The two heads of Mask R-CNN on pooled regions (He et al. 2017, Fig. 4 right), their samples, losses and detections.

Box head: two fully connected layers, then the class and for every foreground class the way from the region to its box.
Mask head: four Conv3, a transposed convolution by 2, and one mask per foreground class.
Losses are means over the sampled regions of an image, then over images; the mask loss is over the objects among them.
Shapes: B images, N regions of all images, G true instances of one, K classes with background, m the side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import convolution, initialise_he, transposed_up
from overread.architectures.boxes import box_iou, clip, decode, encode, match, nms, sampling_weights
from overread.architectures.instance_masks import Truth, mask_targets
from overread.architectures.region_proposals import BETA

BOX_CELLS, MASK_CELLS = 7, 14
"""Cells that regions are pooled to for the two heads; masks have twice as many."""
REGION_IOU = 0.5
"""A region is an object from this IoU with a true box on, else background."""
OBJECT_SHARE = 0.25
"""Largest share of objects among the sampled regions."""
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Weights of the coded boxes: the inverse of their usual spread (Fast R-CNN's released code)."""
SMALLEST_SIDE = 1.0
"""Pixels; a smaller box is no detection."""


class BoxHead(nn.Module):
    """Class and box of every region. Inner layers: `hidden` (two), `classes`, `deltas`."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * BOX_CELLS**2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        self.classes = nn.Linear(hidden, classes)
        self.deltas = nn.Linear(hidden, 4 * (classes - 1))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classes.weight, std=0.01)  # start undecided, at the regions
        nn.init.normal_(self.deltas.weight, std=0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, channels, 7, 7) to float32 class logits (N, K) and coded boxes (N, K - 1, 4)."""
        hidden = self.hidden(pooled)
        return self.classes(hidden).float(), self.deltas(hidden).float().unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """Masks of every region. Inner layers: `convolutions` (four), `up`, `masks` (1x1)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = [layer for _ in range(4) for layer in (convolution(2, channels, channels), nn.ReLU(inplace=True))]
        self.convolutions = nn.Sequential(*layers)
        self.up = transposed_up(2, channels, channels)
        self.masks = convolution(2, channels, classes - 1, kernel=1)
        initialise_he(self)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (N, channels, 14, 14) to float32 logits (N, K - 1, 28, 28)."""
        return self.masks(self.up(self.convolutions(pooled)).relu()).float()


@dataclass(frozen=True)
class RegionSample:
    """The regions of one image that its losses are over."""

    truth: Truth
    boxes: Tensor
    """(n, 4)."""
    matched: Tensor
    """(n,) index of the true instance, negative: background."""
    weights: Tensor
    """(n,) float (`sampling_weights`)."""

    @classmethod
    def draw(cls, proposals: Tensor, truth: Truth, samples: int, *, random: bool) -> RegionSample:
        """Choose among the proposals (P, 4) and the true boxes, so that there are objects from the first step on."""
        boxes = torch.cat([proposals, truth.boxes])
        matched = match(box_iou(truth.boxes, boxes), REGION_IOU, REGION_IOU)
        weights = sampling_weights(matched, samples, OBJECT_SHARE, random=random)
        chosen = weights.nonzero()[:, 0]
        return cls(truth, boxes[chosen], matched[chosen], weights[chosen])

    @property
    def objects(self) -> Tensor:
        """(n',) the rows that are objects."""
        return (self.matched >= 0).nonzero()[:, 0]

    @property
    def classes(self) -> Tensor:
        """(n',) the class of every object."""
        return self.truth.classes[self.matched[self.objects]]

    def class_loss(self, logits: Tensor) -> Tensor:
        """Return the cross-entropy of (n, K) with the classes, which may be shared between several."""
        targets = torch.zeros_like(logits)
        targets[:, 0] = 1
        targets[self.objects] = self.truth.shares[self.matched[self.objects]]
        entropy = -(targets * logits.log_softmax(1)).sum(1)
        return _share(entropy * self.weights, self.weights)

    def box_loss(self, deltas: Tensor) -> Tensor:
        """Return the smooth L1 error of the coded boxes (n, K - 1, 4) of the objects, per sampled region."""
        rows = self.objects
        wanted = encode(self.truth.boxes[self.matched[rows]], self.boxes[rows], BOX_WEIGHTS)
        errors = F.smooth_l1_loss(deltas[rows, self.classes - 1], wanted, reduction="none", beta=BETA).sum(1)
        return _share(errors * self.weights[rows], self.weights)

    def mask_loss(self, logits: Tensor) -> Tensor:
        """Return the binary cross-entropy of the masks (n', K - 1, m, m) of the objects, each in its own class."""
        rows = self.objects
        wanted = mask_targets(self.truth, self.matched[rows], self.boxes[rows], logits.shape[-1])
        own = logits[torch.arange(len(rows), device=rows.device), self.classes - 1]
        entropy = F.binary_cross_entropy_with_logits(own, wanted, reduction="none").mean((1, 2))
        return _share(entropy * self.weights[rows], self.weights[rows])


def _share(values: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of `values` over that of `weights`; 0 where there is nothing."""
    return values.sum() / weights.sum().clamp_min(1e-6)


@dataclass(frozen=True)
class ScoredBoxes:
    """What the box head finds in one image, by falling score."""

    boxes: Tensor
    """(n, 4), without gradients."""
    scores: Tensor
    """(n,) probability of the class."""
    classes: Tensor
    """(n,) class ids 1..K-1."""

    @classmethod
    def find(
        cls,
        proposals: Tensor,
        logits: Tensor,
        deltas: Tensor,
        size: tuple[int, int],
        *,
        score_threshold: float,
        candidates: int,
        overlap: float,
        detections: int,
    ) -> ScoredBoxes:
        """Return the boxes of proposals (P, 4) that score above the threshold, thinned by NMS within each class.

        `logits` are (P, K), `deltas` (P, K - 1, 4). The best `candidates` go into the NMS at IoU `overlap`, the best
        `detections` come out.
        """
        scores = logits.softmax(1)[:, 1:]
        moved = clip(decode(deltas.detach(), proposals[:, None], BOX_WEIGHTS), size)
        large = (moved[..., 2:] - moved[..., :2]).amin(-1) >= SMALLEST_SIDE
        rows, classes = ((scores > score_threshold) & large).nonzero(as_tuple=True)
        best = scores[rows, classes].argsort(descending=True, stable=True)[:candidates]
        rows, classes = rows[best], classes[best]
        stays = nms(moved[rows, classes], scores[rows, classes].detach(), overlap, classes)[:detections]
        rows, classes = rows[stays], classes[stays]
        return cls(moved[rows, classes], scores[rows, classes], classes + 1)
