"""Which of several readers differ: Wilcoxon's signed-rank test of every pair, corrected for the number of pairs.

The test (Wilcoxon 1945) asks whether the paired differences are symmetric about 0. Holm's correction (1979) keeps the
chance of any false claim among all pairs at the level, and is never weaker than Bonferroni's. Cases of one group (a
patient) are alike, so their mean is one observation: the tests take cases as independent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from overread.jsonio import JsonRecord
from overread.metrics.summary import group_places


@dataclass(frozen=True, kw_only=True)
class PairedTest(JsonRecord):
    """Two readers on the same cases."""

    first: str
    second: str
    n: int
    """Groups that both have read."""
    difference: float | None
    """Mean over the groups of first minus second."""
    p: float | None
    """Two-sided; None with fewer than two groups."""
    p_holm: float | None
    """Corrected for all pairs that have a p."""


def compare_pairs(
    values: Mapping[str, Mapping[str, float]], groups: Mapping[str, Hashable] | None = None
) -> tuple[PairedTest, ...]:
    """Test every pair of readers, in their order.

    Args:
        values: By reader the value of each case; a pair is compared on the cases that both have.
        groups: Group of each case; None: each case is its own.

    """
    rows = []
    for first, second in combinations(values, 2):
        cases = [case for case in values[first] if case in values[second]]
        apart = np.array([values[first][case] - values[second][case] for case in cases])
        places = group_places([case if groups is None else groups[case] for case in cases])
        means = np.bincount(places, weights=apart) / np.bincount(places) if cases else apart
        rows.append((first, second, means))
    found = [_p(means) for *_, means in rows]
    corrected = iter(holm([p for p in found if p is not None]))
    return tuple(
        PairedTest(
            first=first,
            second=second,
            n=len(means),
            difference=float(means.mean()) if len(means) else None,
            p=p,
            p_holm=None if p is None else next(corrected),
        )
        for (first, second, means), p in zip(rows, found, strict=True)
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values: the k-th smallest of m times m - k + 1, never falling, at most 1.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def _p(differences: np.ndarray) -> float | None:
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)
