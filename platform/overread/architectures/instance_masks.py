"""Between maps of instance ids and boxes with masks: truths and mask targets out of a map, detections into one.

Shapes: G true instances, N boxes, m the side of a mask in its box, H and W the image, K classes with background.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 32
"""Masks pasted at once: full-size masks of all instances of an image would not fit."""
VISIBLE = 0.5
"""Share of a detection that better ones must leave visible; of the rest only slivers would remain."""


@dataclass(frozen=True)
class Truth:
    """The instances of one image."""

    boxes: Tensor
    """(G, 4) around all pixels of each."""
    shares: Tensor
    """(G, K) float share of every class in its foreground labels; sums to 1."""
    map: Tensor
    """(H, W) index of the instance, -1 where there is none."""

    @property
    def classes(self) -> Tensor:
        """(G,) the most frequent foreground class of each, 1..K-1."""
        return self.shares.argmax(1)


def find_truths(instances: Tensor, soft: Tensor) -> list[Truth]:
    """Return the instances of every image from ids (B, H, W), 0 = none, and soft labels (B, K, H, W).

    The class of an instance is what its pixels are labelled as, which may be divided. An instance that is mostly
    background is no object, unless there is one class only: then every instance is of it.
    """
    return [_find(ids, labels) for ids, labels in zip(instances, soft, strict=True)]


def _find(ids: Tensor, labels: Tensor) -> Truth:
    found, index = torch.unique(ids, return_inverse=True)
    flat, count, classes = index.flatten(), len(found), len(labels)
    pixels = torch.zeros(count, device=ids.device).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
    shares = torch.zeros((count, classes), device=ids.device).index_add_(0, flat, labels.flatten(1).T.float())
    shares /= pixels[:, None]
    real = found > 0
    if classes == 2:
        shares[:, 1] = 1
    else:
        real &= shares.argmax(1) > 0
    shares[:, 0] = 0
    shares /= shares.sum(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    rows, columns = (
        torch.arange(n, device=ids.device).reshape(shape).expand(ids.shape).flatten()
        for n, shape in zip(ids.shape, ((-1, 1), (1, -1)), strict=True)
    )

    def extreme(places: Tensor, kind: str) -> Tensor:
        return torch.zeros_like(found, dtype=places.dtype).scatter_reduce_(0, flat, places, kind, include_self=False)

    corners = [extreme(columns, "amin"), extreme(rows, "amin"), extreme(columns, "amax") + 1, extreme(rows, "amax") + 1]
    number = torch.where(real, real.cumsum(0) - 1, -1)
    return Truth(torch.stack(corners, 1)[real].float(), shares[real], number[index])


def mask_targets(truth: Truth, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Return (N, side, side) the masks of instances `which` (N,) in boxes (N, 4): means of 2 x 2 pixels per cell.

    The pixels are those at the centres of the quarters of a cell, where `roi_align` samples too.
    """
    share = (torch.arange(2 * side, device=boxes.device) + 0.5) / (2 * side)
    height, width = truth.map.shape
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * share
    y = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * share
    column, row = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)
    inside = truth.map[row[:, :, None], column[:, None]] == which[:, None, None]
    return inside.float().reshape(-1, side, 2, side, 2).mean((2, 4))


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N, H, W) masks (N, m, m) drawn into their boxes: bilinear at pixel centres, 0 outside the box."""
    rows = _interpolation(boxes[:, 1], boxes[:, 3], size[0], masks.shape[1])
    columns = _interpolation(boxes[:, 0], boxes[:, 2], size[1], masks.shape[2])
    with torch.autocast(masks.device.type, enabled=False):  # probabilities are float32
        return rows @ masks @ columns.transpose(1, 2)


def _interpolation(low: Tensor, high: Tensor, length: int, cells: int) -> Tensor:
    """Return (N, length, cells) the linear weights of cells between `low` and `high` at the pixels of an axis."""
    centres = torch.arange(length, device=low.device) + 0.5
    share = (centres - low[:, None]) / (high - low)[:, None]
    place = (share * cells - 0.5).clamp(0, cells - 1)
    weights = (1 - (place[:, :, None] - torch.arange(cells, device=low.device)).abs()).clamp_min(0)
    return weights * ((share >= 0) & (share <= 1))[:, :, None]


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The instances that a network finds in an image, by falling score. No gradients."""

    boxes: Tensor
    """(N, 4) x0, y0, x1, y1 in pixels; pixel i covers [i, i + 1)."""
    scores: Tensor
    """(N,) probability of the class."""
    classes: Tensor
    """(N,) class ids 1..K-1."""
    ids: Tensor
    """(H, W) int32: 0 none, i + 1 the pixels of instance i. Where masks overlap the higher score has the pixel."""


@dataclass(frozen=True)
class Detections:
    """Scored boxes of one image, each with a mask inside; by falling score."""

    boxes: Tensor
    """(N, 4)."""
    scores: Tensor
    """(N,)."""
    classes: Tensor
    """(N,) class ids 1..K-1."""
    masks: Tensor
    """(N, m, m) float32 probabilities."""

    def pasted(self, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield some indices (n,) and their masks (n, H, W), in order, until all are there."""
        for rows in torch.split(torch.arange(len(self.boxes), device=self.boxes.device), CHUNK):
            if len(rows):
                yield rows, paste(self.masks[rows], self.boxes[rows], size)

    def foreground(self, size: tuple[int, int], classes: int) -> Tensor:
        """Return (K - 1, H, W): per class and pixel the largest score times mask probability; 0 where there is none."""
        result = self.masks.new_zeros((classes - 1, *size))
        for rows, masks in self.pasted(size):
            scored = masks * self.scores[rows, None, None]
            own = torch.arange(1, classes, device=rows.device)[:, None] == self.classes[rows]
            best = [scored[mine].amax(0) if mine.any() else torch.zeros_like(scored[0]) for mine in own]
            result = torch.maximum(result, torch.stack(best))
        return result

    @torch.no_grad()
    def instances(self, size: tuple[int, int], threshold: float) -> Instances:
        """Return the instances of pixels whose mask probability exceeds `threshold`.

        A detection of which better ones leave less than half visible is dropped: it is mostly the same object again.
        """
        ids = torch.zeros(size, dtype=torch.int64, device=self.boxes.device)
        full = torch.zeros(len(self.boxes) + 1, dtype=torch.int64, device=self.boxes.device)
        for rows, masks in self.pasted(size):
            inside = masks > threshold
            full[rows + 1] = inside.sum((1, 2))
            first = rows[0] + inside.int().argmax(0) + 1  # of the best of this chunk
            ids = torch.where((ids == 0) & inside.any(0), first, ids)
        visible = torch.bincount(ids.flatten(), minlength=len(full))
        stays = (visible > 0) & (visible >= VISIBLE * full)
        stays[0] = False
        number = torch.where(stays, stays.cumsum(0), 0)
        kept = stays[1:].nonzero()[:, 0]
        return Instances(
            boxes=self.boxes[kept].detach(),
            scores=self.scores[kept].detach(),
            classes=self.classes[kept],
            ids=number[ids].int(),
        )
