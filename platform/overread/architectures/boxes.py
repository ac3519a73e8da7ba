"""Boxes of detectors in plain PyTorch: overlap, coding, suppression, RoIAlign, anchors, matching and sampling.

A box is (x0, y0, x1, y1) in pixels of the input image, continuous: pixel i covers [i, i + 1), so the box of the pixels
2, 3, 4 of a row is x0 = 2, x1 = 5. Shapes: N boxes, M others, G true ones, B images, C channels.
Everything is vectorised over boxes; only images and pyramid levels are looped over. No compiled vision operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE, IGNORED = -1, -2
"""What `match` says of a box that is background, and of one that is neither background nor object."""
LARGEST_GROWTH = math.log(1000 / 16)
"""Bound of the coded log-sizes, so that an untrained network cannot overflow (Faster R-CNN's released code)."""
RATIO_OF_CANONICAL = 7.0
"""A box of this many times the smallest anchor is pooled from the third level: 224 over 32 px (FPN, Eq. 1)."""


def areas(boxes: Tensor) -> Tensor:
    """Return (...,) the areas of boxes (..., 4); 0 for those turned inside out."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).unbind(-1)
    return width * height


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return (N, M) |a n b| / |a u b| of boxes (N, 4) and (M, 4); 0 where both are without area."""
    left, top, right, bottom = a.T[:, :, None].unbind()
    other_left, other_top, other_right, other_bottom = b.T.contiguous().unbind()
    width = torch.minimum(right, other_right) - torch.maximum(left, other_left)
    height = torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)
    common = width.clamp_min_(0) * height.clamp_min_(0)
    union = areas(a)[:, None] + areas(b)[None] - common
    return common / union.clamp_min(torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Return (..., 4) what leads from the references to the boxes (R-CNN, Girshick 2014, Eqs. 6-9), times `weights`.

    Shifts of the centre in sides of the reference, and the logarithms of the ratios of the sides.
    """
    centre, side = _centre_and_side(boxes)
    from_centre, from_side = _centre_and_side(references)
    deltas = torch.cat([(centre - from_centre) / from_side, torch.log(side / from_side)], -1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the boxes (..., 4) that `deltas` lead to from the references: the inverse of `encode`."""
    shift, growth = (deltas / deltas.new_tensor(weights)).chunk(2, -1)
    from_centre, from_side = _centre_and_side(references)
    centre = from_centre + shift * from_side
    half = 0.5 * from_side * growth.clamp_max(LARGEST_GROWTH).exp()
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (..., 4) cut to an image of `size` (H, W)."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp_min(0), limits)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, -1)
    return 0.5 * (low + high), high - low


def nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Return the indices (N',) of the boxes that survive, by falling score (of equal ones the first comes first).

    Greedy non-maximum suppression: a box falls if its IoU with a better one that stays exceeds `threshold`; only boxes
    of the same group (N,), such as the class, suppress each other. All boxes are decided at once and again until
    nothing changes: the r-th best is right after r rounds at the latest, in practice after a few.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    falls = box_iou(boxes, boxes) > threshold
    if groups is not None:
        falls &= groups[order][:, None] == groups[order][None]
    falls = falls.triu(1).to(boxes.dtype)  # row: the better box
    stays = torch.ones_like(scores, dtype=torch.bool)
    with torch.autocast(boxes.device.type, enabled=False):  # the product would be rounded, and copied for it each time
        while not torch.equal(again := stays.to(boxes.dtype) @ falls == 0, stays):
            stays = again
    return order[stays]


def anchors(
    cells: tuple[int, int], stride: int, side: float, ratios: Sequence[float], device: torch.device | None = None
) -> Tensor:
    """Return (h * w * len(ratios), 4) boxes of area side^2 around the centre of every cell of an (h, w) map, row-major.

    `ratios` are height over width; those of one cell follow each other.
    """
    h, w = cells
    high = side * torch.tensor(ratios, device=device).sqrt()
    half = torch.stack([side * side / high, high], -1) / 2
    y, x = ((torch.arange(n, device=device) + 0.5) * stride for n in (h, w))
    centre = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1).reshape(-1, 4)


def match(overlap: Tensor, low: float, high: float, *, best: bool = False) -> Tensor:
    """Return (N,) which truth each box is for, from the IoU (G, N) of truths and boxes.

    The truth of largest IoU where that is at least `high`, `NEGATIVE` where it is below `low`, else `IGNORED`. With
    `best` also the boxes that are the best of some truth, however little they overlap (Faster R-CNN, section 3.1.2).
    """
    if len(overlap) == 0:
        return torch.full((overlap.shape[1],), NEGATIVE, device=overlap.device)
    most, truth = overlap.max(0)
    matched = truth.masked_fill(most < high, IGNORED).masked_fill(most < low, NEGATIVE)
    if best:
        top = overlap.amax(1, keepdim=True)
        matched = torch.where(((overlap == top) & (top > 0)).any(0), truth, matched)
    return matched


def sampling_weights(matched: Tensor, count: int, share: float, *, random: bool) -> Tensor:
    """Return (N,) float weights of boxes in a loss over at most `count` of them, at most `share` of these objects.

    At random: 1 for those drawn, 0 for the others (R-CNN's balanced sampling). Otherwise the chance of each to be
    drawn: the loss is then the mean over all draws, the same each time.
    """
    objects, background = matched >= 0, matched == NEGATIVE
    found, rest = int(objects.sum()), int(background.sum())
    wanted = min(found, int(count * share))
    others = min(rest, count - wanted)
    if not random:
        return objects * (wanted / max(found, 1)) + background * (others / max(rest, 1))
    noise = torch.rand(len(matched), device=matched.device)
    weights = torch.zeros_like(noise)
    weights[noise.masked_fill(~objects, -1).topk(wanted).indices] = 1
    weights[noise.masked_fill(~background, -1).topk(others).indices] = 1
    return weights


def pyramid_levels(boxes: Tensor, levels: int, smallest_anchor: float) -> Tensor:
    """Return (N,) the level 0..levels-1 to pool each box from, by the root of its area (FPN, Lin 2017, Eq. 1).

    Floor(2 + log2(root / canonical)): of the published anchors of 32 px and more, boxes below 112 px are of level 0.
    """
    root = areas(boxes).sqrt() / (RATIO_OF_CANONICAL * smallest_anchor)
    tiny = 2.0**-levels  # of the first level anyway; the logarithm of 0 is not
    return (2 + root.clamp_min(tiny).log2()).floor().clamp(0, levels - 1).long()


def roi_align(
    maps: Sequence[Tensor], boxes: Sequence[Tensor], levels: Sequence[Tensor], size: tuple[int, int], cells: int
) -> Tensor:
    """Return (sum N_b, C, cells, cells) float32 features of boxes (N_b, 4) of every image (Mask R-CNN, section 3).

    `maps` (B, C, h, w) are the levels that cover an image of `size` (H, W); `levels` (N_b,) says which to take. Each
    cell of a box is the mean of 2 x 2 bilinear samples at the centres of its quarters; nothing is rounded, and a map's
    value is at the centre of its pixel (the `aligned` form). Beyond the outermost centres the map is constant.
    """
    pooled = []
    for image, (own, level) in enumerate(zip(boxes, levels, strict=True)):
        chosen = [(level == index).nonzero()[:, 0] for index in range(len(maps))]
        parts = [
            _pool(maps[index][image : image + 1].float(), own[rows], size, cells)
            for index, rows in enumerate(chosen)
            if len(rows)
        ]
        if parts:
            pooled.append(torch.cat(parts)[torch.cat(chosen).argsort()])
    return torch.cat(pooled) if pooled else maps[0].new_zeros((0, maps[0].shape[1], cells, cells), dtype=torch.float32)


def _pool(image: Tensor, boxes: Tensor, size: tuple[int, int], cells: int) -> Tensor:
    """Return (N, C, cells, cells) of one map (1, C, h, w)."""
    count, channels, points = len(boxes), image.shape[1], 2 * cells
    share = (torch.arange(points, device=boxes.device) + 0.5) / points
    low, high = boxes[:, :2], boxes[:, 2:]
    spots = low[:, None] + (high - low)[:, None] * share[:, None]  # (N, points, 2) as x, y
    x, y = (2 * spots / spots.new_tensor([size[1], size[0]]) - 1).unbind(-1)  # edges of the image are -1 and 1
    grid = torch.stack([x[:, None].expand(-1, points, -1), y[:, :, None].expand(-1, -1, points)], -1)
    samples = F.grid_sample(
        image, grid.reshape(1, count * points, points, 2), padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(samples, 2).reshape(channels, count, cells, cells).transpose(0, 1)
