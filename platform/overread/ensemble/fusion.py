"""Soft vote: the weighted mean of the members' probabilities, kept as a running sum, so members are never stacked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]


class SoftVote:
    """Running weighted mean of probabilities (K, *S); holds one array, whatever the number of members.

    >>> vote = SoftVote()
    >>> vote.add(np.array([[0.8], [0.2]], np.float32))
    >>> vote.add(np.array([[0.2], [0.8]], np.float32), weight=2.0)
    >>> vote.mean().round(2).tolist()
    [[0.4000000059604645], [0.6000000238418579]]
    """

    def __init__(self) -> None:
        self._mean: Probabilities | None = None
        self._weight = 0.0

    def add(self, probabilities: Probabilities, weight: float = 1.0) -> None:
        """Add one member's probabilities; weights must be above 0, shapes equal (`ValueError`)."""
        if weight <= 0:
            raise ValueError(f"the weight of a member must be above 0, but got {weight}")
        self._weight += weight
        if self._mean is None:
            self._mean = np.array(probabilities, dtype=np.float32)
            return
        if probabilities.shape != self._mean.shape:
            raise ValueError(f"members must read one shape {self._mean.shape}, but one gave {probabilities.shape}")
        # mean += w / W * (p - mean): stays a mean at any time and needs one array beside it, changed in place
        step = np.subtract(probabilities, self._mean, dtype=np.float32)
        step *= np.float32(weight / self._weight)
        self._mean += step

    def mean(self) -> Probabilities:
        """Return the mean so far (K, *S) float32; `ValueError` before the first member."""
        if self._mean is None:
            raise ValueError("a vote needs at least one member, but none was added")
        return self._mean
