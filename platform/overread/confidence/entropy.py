"""Predictive entropy: how undecided a network is, voxel by voxel and for a case. NumPy, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    foreground = probabilities.argmax(0) > 0
    if not foreground.any():
        return None
    return -float(predictive_entropy(probabilities[:, foreground]).mean())
