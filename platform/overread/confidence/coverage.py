"""How well a confidence ranks cases: coverage curve (U-Netmer, Fig. 11) and correlation with the true Dice.

A confidence of None (flagged or undefined) is the lowest of all: such a case is the first to be reviewed by hand, that
of the highest foreground probability before the others, where this is known (`ranking.certainty`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from overread.confidence.tied_order import TiedOrder
from overread.jsonio import JsonRecord

SHARES = tuple(range(10, 101, 10))


@dataclass(frozen=True, kw_only=True)
class CoveragePoint(JsonRecord):
    """One point of the curve: mean Dice of the most confident cases."""

    coverage: int
    """Per cent of the cases kept; the rest would be reviewed by hand."""
    n: int
    """Cases kept, rounded up, at least one."""
    dice: float


@dataclass(frozen=True, kw_only=True)
class Correlation(JsonRecord):
    """Correlation of a confidence with the true Dice. None: fewer than three cases, or one of them constant."""

    pearson: float | None
    spearman: float | None
    n: int
    """Cases with a confidence."""


def coverage_curve(
    confidence: Sequence[float | None],
    dice: Sequence[float],
    shares: Sequence[int] = SHARES,
    foreground: Sequence[float] | None = None,
) -> tuple[CoveragePoint, ...]:
    """Return the mean Dice of the most confident d % of the cases, for each d; no cases give no points.

    Cases of equal confidence cannot be told apart: those that straddle the cut count with their common mean.
    """
    if len(confidence) != len(dice):
        raise ValueError(f"confidence and dice must have one value per case, but got {len(confidence)} and {len(dice)}")
    if not dice:
        return ()
    kept = np.array([max(1, -(-len(dice) * share // 100)) for share in shares])
    ones = np.ones((len(shares), len(dice)), dtype=np.int64)
    sums = TiedOrder(confidence, foreground).first(ones, np.asarray(dice, dtype=np.float64), kept)
    return tuple(
        CoveragePoint(coverage=share, n=int(n), dice=float(total / n))
        for share, n, total in zip(shares, kept, sums, strict=True)
    )


def correlation(confidence: Sequence[float | None], dice: Sequence[float]) -> Correlation:
    """Return Pearson's and Spearman's correlation over the cases that have a confidence."""
    pairs = [(c, d) for c, d in zip(confidence, dice, strict=True) if c is not None]
    n = len(pairs)
    first, second = np.array(pairs, dtype=np.float64).reshape(n, 2).T
    if n < 3 or _constant(first) or _constant(second):
        return Correlation(pearson=None, spearman=None, n=n)
    pearson, spearman = stats.pearsonr(first, second), stats.spearmanr(first, second)
    return Correlation(pearson=float(pearson.statistic), spearman=float(spearman.statistic), n=n)


def _constant(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) < 1e-12)  # differences of rounding order nothing
