"""Complex-Nodule Validation (UGS-Net, Table III): models compared on the cases that a baseline segments badly.

The groups are nested: the cases that the baseline reads with a Dice of at most 0.6, 0.7, 0.8. As the baseline chooses
them by its own errors, it is at its worst there, and any other model, even its twin of another seed, looks better by
regression to the mean. So a gain over the baseline says little; two models that are not the baseline compare fairly.
A group of fewer than ten cases gets no interval: resampling so few says less than the list of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from overread.metrics.summary import Summary

LIMITS = (0.6, 0.7, 0.8)
LEAST_CASES = 10


def complex_groups(
    baseline: Mapping[str, float | None], limits: Sequence[float] = LIMITS
) -> dict[float, frozenset[str]]:
    """Return by limit the cases whose Dice by the baseline is at most that; None: not defined, in no group."""
    return {
        limit: frozenset(case for case, dice in baseline.items() if dice is not None and dice <= limit)
        for limit in limits
    }


def with_honest_interval(summary: Summary, least: int = LEAST_CASES) -> Summary:
    """Return the summary, without its interval if it is of fewer than `least` values."""
    return summary if summary.n >= least else replace(summary, low=None, high=None)
