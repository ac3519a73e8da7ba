"""What a table says of many cases: mean, spread, n and a bootstrap interval, always together.

The interval is the 2.5 and 97.5 percentile of the means of resamples drawn with replacement (percentile bootstrap,
Efron 1979). Cases of one group (a patient, a cluster of near-duplicates) are alike, so groups are resampled with all
their cases (cluster bootstrap); without groups each case is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.jsonio import JsonRecord

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Summary(JsonRecord):
    """Figures of n values. None: not defined (spread of fewer than two values, interval of fewer than two groups)."""

    mean: float | None
    sd: float | None
    """Standard deviation of the sample (n - 1)."""
    n: int
    low: float | None
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class ForegroundSplit(JsonRecord):
    """A metric over all cases, and apart over those with and without foreground in the truth."""

    all: Summary
    """Over the cases where the metric is defined, as is `foreground`."""
    foreground: Summary
    """Cases whose truth has foreground."""
    normal: int
    """Number of cases whose truth has none."""
    false_positives: int
    """Normal cases in which foreground was predicted."""
    false_positive_rate: float | None
    """None if there is no normal case."""


def summarise(
    values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES, groups: Sequence[Hashable] | None = None
) -> Summary:
    """Return mean, sd, n and the 95 % bootstrap interval of the mean; the same values give the same interval.

    `groups` names the group of each value: mean, sd and n are over the values, only the resampling is by group.
    """
    data = np.asarray(values, dtype=np.float64)
    sums, counts = _by_group(data, groups)
    n = len(data)
    if n < 2:
        return Summary(mean=float(data[0]) if n else None, sd=None, n=n, low=None, high=None)
    low: float | None = None
    high: float | None = None
    if len(sums) > 1:
        low, high = map(float, np.percentile(_resampled_means(sums, counts, seed, resamples), [2.5, 97.5]))
    return Summary(mean=float(data.mean()), sd=float(data.std(ddof=1)), n=n, low=low, high=high)


def summarise_defined(
    values: Iterable[float | None], seed: int = 0, *, groups: Sequence[Hashable] | None = None
) -> Summary:
    """Return the summary of the values that are not None (undefined); `groups` names the group of each value."""
    told = list(values)
    names = range(len(told)) if groups is None else groups
    known = [(value, name) for value, name in zip(told, names, strict=True) if value is not None]
    return summarise([value for value, _ in known], seed, groups=[name for _, name in known])


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
    groups: Sequence[Hashable] | None = None,
) -> Summary:
    """Return the summary of the differences a - b of the same cases in the same order; unequal lengths raise."""
    return summarise([x - y for x, y in zip(a, b, strict=True)], seed, resamples, groups)


def unpaired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
    groups: tuple[Sequence[Hashable] | None, Sequence[Hashable] | None] = (None, None),
) -> Summary:
    """Return mean a - mean b of different cases, its interval by resampling both; sd is none and n the smaller n.

    The sets must share no group: they are drawn apart.
    """
    one, other = (_by_group(np.asarray(v, dtype=np.float64), g) for v, g in zip((a, b), groups, strict=True))
    n = min(len(a), len(b))
    mean = float(np.mean(a)) - float(np.mean(b)) if n else None
    if min(len(one[0]), len(other[0])) < 2:
        return Summary(mean=mean, sd=None, n=n, low=None, high=None)
    drawn = [_resampled_means(*values, seed + i, resamples) for i, values in enumerate((one, other))]
    low, high = map(float, np.percentile(drawn[0] - drawn[1], [2.5, 97.5]))
    return Summary(mean=mean, sd=None, n=n, low=low, high=high)


def split_by_foreground(
    values: Sequence[float | None],
    truth_has: Sequence[bool],
    prediction_has: Sequence[bool],
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> ForegroundSplit:
    """Return a metric over all cases and over those with foreground, and the false-positive rate of the others.

    The sequences hold one entry per case: the metric, whether truth and prediction have any foreground, the group.
    Cases whose metric is None (undefined) are left out of the means and their n, not of the false-positive rate.
    """
    names = range(len(values)) if groups is None else groups
    rows = list(zip(values, truth_has, prediction_has, names, strict=True))
    normal = [bool(found) for _, true, found, _ in rows if not true]
    having = [(value, name) for value, true, _, name in rows if true]
    return ForegroundSplit(
        all=summarise_defined(values, seed, groups=groups),
        foreground=summarise_defined([value for value, _ in having], seed, groups=[name for _, name in having]),
        normal=len(normal),
        false_positives=sum(normal),
        false_positive_rate=sum(normal) / len(normal) if normal else None,
    )


def _by_group(
    data: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of the values of each group, in order of appearance."""
    if groups is None:
        return data, np.ones(len(data))
    if len(groups) != len(data):
        raise ValueError(f"each value must have a group, but there are {len(data)} values and {len(groups)} groups")
    places = group_places(groups)
    return np.bincount(places, weights=data).astype(np.float64), np.bincount(places).astype(np.float64)


def group_places(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """Return the number of each value's group, in order of appearance."""
    order = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    return np.array([order[name] for name in groups], dtype=np.intp)


def standard_error(values: NDArray[np.float64], places: NDArray[np.intp]) -> float:
    """Return the standard error of the mean of values (n,) in groups `places`, 0..G-1: cluster-robust.

    SE = sqrt(G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2) / n; with groups of one case it is sd / sqrt(n). Infinite
    for one group: nothing is known of its noise.
    """
    groups = int(places.max()) + 1
    if groups < 2:
        return float("inf")
    sums = np.bincount(places, weights=values - values.mean())
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(values))


def jackknife_error(statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], places: NDArray[np.intp]) -> float:
    """Return the standard error of a statistic of cases in groups `places`, 0..G-1, by leaving out each group.

    SE = sqrt((G - 1) / G sum_g (t_g - mean)^2), t_g without group g (Efron and Stein 1981). Of a mean over groups of
    one case it is sd / sqrt(n), as `standard_error`; infinite for one group. `statistic` takes weights (G, n), how
    often each case counts, and gives (G,).
    """
    groups = int(places.max()) + 1
    if groups < 2:
        return float("inf")
    left = statistic((places != np.arange(groups)[:, None]).astype(np.int64))
    return float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum()))


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int, resamples: int
) -> NDArray[np.float64]:
    drawn = drawn_groups(len(sums), seed, resamples)
    return np.concatenate([sums[block].sum(1) / counts[block].sum(1) for block in drawn])


def drawn_groups(groups: int, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Yield the groups drawn with replacement, (block, groups) indices each, until there are `resamples` rows."""
    generator = np.random.default_rng(seed)
    # One resample at a time would be slow in Python, all at once 2000 x n in memory: blocks are neither.
    block = max(1, 1_000_000 // groups)
    for start in range(0, resamples, block):
        yield generator.integers(0, groups, (min(block, resamples - start), groups))
