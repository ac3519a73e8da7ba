"""Predictive entropy: how undecided a network is, voxel by voxel and for a case. NumPy, no torch."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 18
"""Voxels at a time: the float64 of a whole volume would be several times its probabilities."""


def predictive_entropy(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return -sum_k p_k ln p_k (*S), in nats, of class probabilities (K, *S); 0 ln 0 is 0."""
    p = probabilities.astype(np.float64)
    return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(0)


def negative_entropy(probabilities: NDArray[Any]) -> float | None:
    """Return minus the mean predictive entropy over the predicted foreground: -ln K .. 0, higher is surer.

    The foreground is where any class but the background is most probable (ties go to the lower id). None if there is
    none: the sureness of an empty mask would rank an overlooked lesion as safe.

    >>> round(negative_entropy(np.array([[0.9, 0.25], [0.1, 0.75]])), 4)
    -0.5623
    """
    flat = probabilities.reshape(len(probabilities), prod(probabilities.shape[1:]))
    total, voxels = 0.0, 0
    for start in range(0, flat.shape[1], BLOCK):
        block = flat[:, start : start + BLOCK]
        inside = block.argmax(0) > 0
        total += float(predictive_entropy(block[:, inside]).sum())
        voxels += int(inside.sum())
    return 0.0 - total / voxels if voxels else None  # sure masks: 0, not -0
