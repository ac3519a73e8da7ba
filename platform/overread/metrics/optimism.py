"""How much the best of many candidates owes to luck: bootstrap bias correction of what a search reports.

The highest of many validation figures is too high, the more candidates and the fewer cases, the more so. Bootstrap bias
correction (Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107) repeats the choice: the candidates are
ranked on cases drawn with replacement, and each rank's candidate is measured on the cases that were not drawn. The mean
over the draws is what the candidate of a rank can be expected to reach on new cases of the kind; its own figure minus
that is the optimism. Whole groups are drawn. Differs from the paper: it is told of every rank, since the winners are
the first few. It corrects the choice alone: not the stopping at the best epoch on the same cases.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from overread.metrics.summary import drawn_groups, group_places

RESAMPLES = 1000


def expected_by_rank(
    values: NDArray[np.float64], groups: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64] | None:
    """Return the expected mean of the candidate of each rank, best first; None with fewer than two groups.

    Args:
        values: (cases, candidates), all candidates on the same cases.
        groups: Group of each case.
        seed: Of the draws.
        resamples: Number of draws.

    """
    places = group_places(groups)
    n = int(places.max(initial=-1)) + 1
    if n < 2 or not values.shape[1]:
        return None
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, places, values)
    counts = np.bincount(places).astype(np.float64)
    total, draws = np.zeros(values.shape[1]), 0
    for block in drawn_groups(n, seed, resamples):
        for drawn in block:
            times = np.bincount(drawn, minlength=n)
            left = times == 0
            if not left.any():
                continue
            # Ties go by the order of the candidates, as on the leaderboard.
            ranked = np.argsort(-(times @ sums) / (times @ counts), kind="stable")
            total += (sums[left].sum(0) / counts[left].sum())[ranked]
            draws += 1
    return total / draws if draws else None
