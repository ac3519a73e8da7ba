"""How far a set of readings is from a set of annotations: the generalised energy distance (Kohl et al. 2018).

D^2 = 2 E d(S, Y) - E d(S, S') - E d(Y, Y') over all pairs of readings S and annotations Y, those of one with itself
included, with d = 1 - IoU and d = 0 for two empty masks. It is 0 only if both sets say the same equally often, so a
network that always gives the mean opinion pays for what the annotators differ in. Small is good; it is in [0, 2].
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.metrics.overlap import Mask

Floats = NDArray[np.float64]


def iou_distances(first: Mask, second: Mask) -> Floats:
    """Return (n, m): 1 - IoU of every mask of `first` (n, *S) with every one of `second` (m, *S); both empty: 0."""
    if first.shape[1:] != second.shape[1:]:
        raise UserError(f"masks must have the same shape, but got {first.shape[1:]} and {second.shape[1:]}")
    rows, columns = _packed(first), _packed(second)
    common = np.array([[_size(a & b) for b in columns] for a in rows], np.float64).reshape(len(rows), len(columns))
    union = np.array([_size(a) for a in rows])[:, None] + np.array([_size(b) for b in columns])[None] - common
    return 1 - np.divide(common, union, out=np.ones_like(common), where=union > 0)


def generalised_energy_distance(readings: Mask, annotations: Mask) -> float:
    """Return D^2 of readings (n, *S) and annotations (m, *S) of one class, bool; neither may be no mask at all."""
    if not len(readings) or not len(annotations):
        raise UserError(f"there must be a reading and an annotation, but got {len(readings)} and {len(annotations)}")
    across = iou_distances(readings, annotations).mean()
    within = iou_distances(readings, readings).mean() + iou_distances(annotations, annotations).mean()
    return float(max(0.0, 2 * across - within))


def _packed(masks: Mask) -> NDArray[np.uint8]:
    """Return (n, bytes): a bit per voxel."""
    return np.packbits(np.asarray(masks, bool).reshape(len(masks), prod(masks.shape[1:])), axis=1)


def _size(bits: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))
