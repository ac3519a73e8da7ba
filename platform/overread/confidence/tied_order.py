"""Cases in falling order of confidence, where cases of equal confidence cannot be told apart.

Whatever depends on the order of tied cases is taken in expectation over all their orders: the sum over the k most
confident cases then grows linearly within a run of ties. A confidence of None (flagged or undefined) is below all
others: such cases come last, in the order of the page (`ranking.certainty`) where their foreground probability is known
and else tied.

Shapes: n cases, B levels of confidence (the surest first), R rows of weights, which say how often a case counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from overread.confidence.ranking import certainty

Floats = NDArray[np.float64]
Weights = NDArray[np.int64]


class TiedOrder:
    """The order of n cases by confidence, for weights (R, n).

    >>> order = TiedOrder([0.9, 0.5, 0.5])
    >>> ones = np.ones((1, 3), np.int64)
    >>> order.first(ones, np.array([1.0, 0.0, 0.6]), np.array([2])).tolist()  # the surest, and either of the others
    [1.3]
    """

    def __init__(self, confidence: Sequence[float | None], foreground: Sequence[float] | None = None) -> None:
        """Order cases by confidence; `foreground` is the highest foreground probability of each case."""
        told = [0.0] * len(confidence) if foreground is None else foreground
        keys = [certainty(c, f) for c, f in zip(confidence, told, strict=True)]
        if any(math.isnan(value) for _, value in keys):
            raise ValueError("a confidence must be a number or None, but one is NaN")
        levels = {key: level for level, key in enumerate(sorted(set(keys), reverse=True))}
        self.level = np.array([levels[key] for key in keys], dtype=np.intp)
        """Of each case, 0 the surest."""
        self._by_level = np.argsort(self.level, kind="stable")
        self._starts = np.searchsorted(self.level[self._by_level], np.arange(len(levels)))

    def sums(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the sums (R, B) of values (R, n) over the cases of each level."""
        return np.add.reduceat(values[:, self._by_level], self._starts, axis=1)

    def counts(self, weights: Weights) -> tuple[Weights, Weights]:
        """Return how many cases are before each level and how many in it, both (R, B)."""
        inside = self.sums(weights).astype(np.int64)
        return np.cumsum(inside, axis=1) - inside, inside

    def totals(self, weights: Weights, values: Floats) -> tuple[Floats, Floats]:
        """Return the sums of `values` (n,) before each level and in it, both (R, B)."""
        inside = self.sums(weights * values).astype(np.float64)
        return np.cumsum(inside, axis=1) - inside, inside

    def midranks(self, weights: Weights) -> Floats:
        """Return the rank (R, n) of each case, 1 the surest; ties share the mean of their ranks."""
        before, inside = self.counts(weights)
        return (before + (inside + 1) / 2)[:, self.level]

    def first(self, weights: Weights, values: Floats, kept: Weights) -> Floats:
        """Return the expected sum (R,) of `values` (n,) over the `kept` (R,) surest cases."""
        before, inside = self.counts(weights)
        sum_before, sum_inside = self.totals(weights, values)
        level = (before + inside < kept[:, None]).sum(1)
        rows = np.arange(len(kept))
        share = (kept - before[rows, level]) / inside[rows, level]
        return sum_before[rows, level] + share * sum_inside[rows, level]
