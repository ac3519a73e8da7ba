"""What several annotations of an image are trained on: their union, intersection, mean, and the first of them.

Per sample and class only the annotations that have the class count: an annotator whose contour is missing would empty
the intersection. UGS-Net asks for two of them; with one alone it stands for all four, as annotators who agree would,
and with none all four are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from overread.records import Batch


@dataclass(frozen=True)
class AnnotationTargets:
    """Masks (B, K - 1, *S) float32, one per foreground class."""

    union: Tensor
    intersection: Tensor
    first: Tensor
    """The first that counts, in the order of `Batch.labels` (Label_1 of UGS-Net)."""
    mean: Tensor
    """The share of those that count which mark a voxel."""


def annotation_targets(batch: Batch, classes: int) -> AnnotationTargets:
    """Return the targets of a batch; `classes` counts the background."""
    ids = torch.arange(1, classes, device=batch.labels.device, dtype=batch.labels.dtype)
    masks = batch.labels[:, :, None] == ids.reshape(-1, *[1] * (batch.labels.ndim - 2))  # (B, A, K - 1, *S)
    counted = batch.valid[:, :, None] & masks.flatten(3).any(3)
    first = counted & (counted.cumsum(1) == 1)
    number = counted.sum(1).clamp_min(1)

    def spread(values: Tensor) -> Tensor:
        return values.reshape(*values.shape, *[1] * (batch.labels.ndim - 2))

    masks = masks & spread(counted)
    union = masks.any(1)
    return AnnotationTargets(
        union=union.float(),
        intersection=((masks | ~spread(counted)).all(1) & union).float(),
        first=(masks & spread(first)).any(1).float(),
        mean=masks.sum(1) / spread(number),
    )
