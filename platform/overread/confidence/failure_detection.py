"""How well a confidence finds the cases that were segmented badly, with bootstrap intervals by group.

The risk of a case is 1 - Dice. With the n cases in falling order of confidence, risk r_1 .. r_n, R_k = r_1 + .. + r_k:

  risk at coverage k / n     R_k / k: what is left if the n - k least sure cases are reviewed by hand
  AURC                       1/n sum_k R_k / k (Geifman et al. 2019; the plug-in estimator of Zhou et al. 2024,
                             arXiv:2410.15361: its weights sum_{k >= i} 1 / k of case i are this sum in another order)
  e-AURC                     AURC minus that of the best order, by Dice
  AUGRC                      area under R_k / n over k / n by trapezoids from (0, 0) (Traub et al. 2024,
                             arXiv:2407.01032): mean risk of an undetected failure. For 0/1 risks it is
                             (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 with accuracy a
  AUROC                      chance that a case of Dice below a threshold is less sure than one at or above it
  ECE                        of scores in 0..1, read as expected Dice: mean over ten bins of equal width of the distance
                             of mean score and mean Dice, weighted by the cases in them (Guo et al. 2017)

Tied cases count in expectation over their orders (`tied_order`). Published code joins the distinct confidences by
trapezoids instead, which is the same for AUGRC and not for AURC. Cases without a confidence are the least sure of all,
by falling foreground probability where it is known (`ranking.certainty`), else tied; they take no part in correlations
and ECE. Everything is computed for weights (R, n): ones for the figure, and the
counts of cluster bootstraps (`metrics.summary`) for its percentile interval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.confidence.tied_order import Floats, TiedOrder, Weights
from overread.jsonio import JsonRecord
from overread.metrics.summary import RESAMPLES, drawn_groups, group_places

FAILURE_DICE = 0.7
"""A case of lower Dice is a failure, unless the user says otherwise."""
COVERAGES = (50, 80, 90)
"""Per cent of the cases at which the risk is told."""
BINS = 10
Statistic = Callable[[Weights], Floats]
"""From weights (R, n) to figures (R,), NaN where not defined."""


@dataclass(frozen=True, kw_only=True)
class Estimate(JsonRecord):
    """A figure and its 95 % interval. None: not defined; interval: of one group, or not defined in most resamples."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class FailureDetection(JsonRecord):
    """All figures of one confidence on one set of cases. Lower is better for AURC, e-AURC, AUGRC, risks and ECE."""

    n: int
    groups: int
    unscored: int
    """Cases without a confidence."""
    failure_dice: float
    failures: int
    """Cases of Dice below `failure_dice`."""
    pearson: Estimate
    spearman: Estimate
    aurc: Estimate
    excess_aurc: Estimate
    augrc: Estimate
    auroc: Estimate
    ece: Estimate
    risk_at: dict[str, Estimate]
    """By coverage in per cent."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference(JsonRecord):
    """AURC of one confidence minus that of another on the same cases, resampled together."""

    first: float
    second: float
    difference: Estimate
    relative_high: float | None
    """Upper end of the interval over the second AURC: 0.1 says that the first is at most 10 % worse."""
    n: int
    first_excess: float | None = None
    """e-AURC: what the order of the cases costs, whatever their masks are worth. None: of an earlier version."""
    second_excess: float | None = None
    excess_difference: Estimate | None = None
    """Of e-AURC: that of AURC, where both judge the same masks; else what of it is better detection."""


class _Cases:
    """Confidence and Dice of n cases, and the statistics of them."""

    def __init__(
        self,
        confidence: Sequence[float | None],
        dice: Sequence[float],
        failure_dice: float,
        foreground: Sequence[float] | None = None,
    ) -> None:
        if len(confidence) != len(dice) or not dice:
            raise ValueError(
                f"failure detection needs one confidence and Dice per case, but got {len(confidence)} and {len(dice)}"
            )
        self.order = TiedOrder(confidence, foreground)
        self.dice = np.asarray(dice, dtype=np.float64)
        self.risk = 1 - self.dice
        self.failed = self.dice < failure_dice
        self.scored = np.array([c is not None for c in confidence])
        self.score = np.array([0.0 if c is None else c for c in confidence])
        self.best = TiedOrder(list(self.dice))

    def statistics(self, coverages: Sequence[int]) -> dict[str, Statistic]:
        """Return all figures by name."""
        figures: dict[str, Statistic] = {
            "pearson": lambda w: _pearson(w * self.scored, self.score, self.dice),
            "spearman": self.spearman,
            "aurc": self.aurc,
            "excess_aurc": self.excess_aurc,
            "augrc": self.augrc,
            "auroc": self.auroc,
            "ece": self.ece,
        }
        for coverage in coverages:
            figures[str(coverage)] = lambda w, share=coverage: self.risk_at(w, share)  # type: ignore[misc]
        return figures

    def aurc(self, weights: Weights) -> Floats:
        """Return the area under the risk-coverage curve."""
        return area_under_risk(self.order, self.risk, weights)

    def excess_aurc(self, weights: Weights) -> Floats:
        """Return AURC minus that of the order by Dice."""
        return self.aurc(weights) - area_under_risk(self.best, self.risk, weights)

    def augrc(self, weights: Weights) -> Floats:
        """Return the area under the generalised risk-coverage curve: one trapezoid per level."""
        _, inside = self.order.counts(weights)
        before, own = self.order.totals(weights, self.risk)
        return (inside * (before + own / 2)).sum(1) / weights.sum(1) ** 2

    def auroc(self, weights: Weights) -> Floats:
        """Return the share of (failure, success) pairs where the failure is less sure; a tie counts half."""
        before, own = self.order.counts(weights * ~self.failed)
        _, failures = self.order.counts(weights * self.failed)
        return _over((failures * (before + own / 2)).sum(1), failures.sum(1) * own.sum(1))

    def spearman(self, weights: Weights) -> Floats:
        """Return Pearson's correlation of the ranks among the scored cases."""
        own = weights * self.scored
        return _pearson(own, self.order.midranks(own), self.best.midranks(own))

    def ece(self, weights: Weights) -> Floats:
        """Return the expected calibration error; NaN for scores outside 0..1."""
        score = self.score[self.scored]
        if not len(score) or score.min() < 0 or score.max() > 1:
            return np.full(len(weights), np.nan)
        bins = np.minimum((self.score * BINS).astype(np.intp), BINS - 1)
        inside = (bins[:, None] == np.arange(BINS)) & self.scored[:, None]
        gaps = weights @ (inside * (self.score - self.dice)[:, None])
        return _over(np.abs(gaps).sum(1), (weights * self.scored).sum(1))

    def risk_at(self, weights: Weights, share: int) -> Floats:
        """Return the expected mean risk of the surest `share` % of the cases, rounded up, at least one."""
        kept = np.maximum(1, -(-weights.sum(1) * share // 100))
        return self.order.first(weights, self.risk, kept) / kept


def area_under_risk(order: TiedOrder, risk: Floats, weights: Weights) -> Floats:
    """Return AURC (R,) of cases in a tied order, in closed form over its levels.

    In a level of c cases of mean risk u after m cases of summed risk S, the expected R_k is S + (k - m) u, so that
    sum_{k = m+1}^{m+c} R_k / k = c u + (S - m u) (H_{m+c} - H_m), H the harmonic numbers.
    """
    before, inside = order.counts(weights)
    risk_before, own = order.totals(weights, risk)
    total = weights.sum(1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, total.max() + 1))])
    mean = own / np.maximum(inside, 1)
    area = own + (risk_before - before * mean) * (harmonic[before + inside] - harmonic[before])
    return area.sum(1) / total


def failure_detection(
    confidence: Sequence[float | None],
    dice: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    failure_dice: float = FAILURE_DICE,
    coverages: Sequence[int] = COVERAGES,
    foreground: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> FailureDetection:
    """Return all figures of a confidence against the true Dice of the same cases; without groups each is its own.

    `foreground` is the highest foreground probability of each case: it ranks those without a confidence.
    """
    cases = _Cases(confidence, dice, failure_dice, foreground)
    places = _places(len(dice), groups)
    found = _estimates(cases.statistics(coverages), places, seed, resamples)
    return FailureDetection(
        n=len(dice),
        groups=int(places.max()) + 1,
        unscored=int((~cases.scored).sum()),
        failure_dice=failure_dice,
        failures=int(cases.failed.sum()),
        risk_at={str(coverage): found.pop(str(coverage)) for coverage in coverages},
        **found,
    )


def aurc_difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    dice: Sequence[float],
    *,
    second_dice: Sequence[float] | None = None,
    foreground: Sequence[float] | None = None,
    second_foreground: Sequence[float] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Return AURC(first) - AURC(second), below 0 where the first confidence is better, with its paired interval.

    `second_dice` and `second_foreground`: of the masks that the second confidence is about, where those are others than
    the first's. The difference of AURC then holds that of the masks, too; that of e-AURC, which is beside it, does not.
    """
    one = _Cases(first, dice, FAILURE_DICE, foreground)
    others = foreground if second_foreground is None else second_foreground
    other = _Cases(second, dice if second_dice is None else second_dice, FAILURE_DICE, others)
    ones = np.ones((1, len(dice)), dtype=np.int64)
    statistics: dict[str, Statistic] = {"aurc": lambda w: one.aurc(w) - other.aurc(w)}
    if second_dice is not None:
        statistics["excess"] = lambda w: one.excess_aurc(w) - other.excess_aurc(w)
    found = _estimates(statistics, _places(len(dice), groups), seed, resamples)
    difference, reference = found["aurc"], float(other.aurc(ones)[0])
    return PairedDifference(
        first=float(one.aurc(ones)[0]),
        second=reference,
        difference=difference,
        relative_high=difference.high / reference if difference.high is not None and reference else None,
        n=len(dice),
        first_excess=float(one.excess_aurc(ones)[0]),
        second_excess=float(other.excess_aurc(ones)[0]),
        excess_difference=found.get("excess", difference),
    )


def pearson_difference(
    first: Sequence[tuple[float, float]],
    second: Sequence[tuple[float, float]],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return r(first) - r(second), Pearson's, of (confidence, Dice) pairs of the same cases, with its paired interval.

    The two may be of different networks, each with its own Dice.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"each case must have two pairs, but there are {len(first)} and {len(second)}")
    one, other = (np.array(pairs, dtype=np.float64).T for pairs in (first, second))
    statistics: dict[str, Statistic] = {"difference": lambda w: _pearson(w, *one) - _pearson(w, *other)}
    return _estimates(statistics, _places(len(first), groups), seed, resamples)["difference"]


def _places(n: int, groups: Sequence[Hashable] | None) -> NDArray[np.intp]:
    if groups is not None and len(groups) != n:
        raise ValueError(f"each case must have a group, but there are {n} cases and {len(groups)} groups")
    return np.arange(n) if groups is None else group_places(groups)


def _estimates(
    statistics: Mapping[str, Statistic], places: NDArray[np.intp], seed: int, resamples: int
) -> dict[str, Estimate]:
    values = {name: float(statistic(np.ones((1, len(places)), np.int64))[0]) for name, statistic in statistics.items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in statistics}
    if places.max() > 0:
        for weights in _resampled(places, seed, resamples):
            for name, statistic in statistics.items():
                drawn[name].append(statistic(weights))
    return {name: _estimate(value, drawn[name]) for name, value in values.items()}


def _resampled(places: NDArray[np.intp], seed: int, resamples: int) -> Iterator[Weights]:
    """Yield how often each case counts, (block, n): as often as its group was drawn."""
    groups = int(places.max()) + 1
    for drawn in drawn_groups(groups, seed, resamples):
        cells = drawn + groups * np.arange(len(drawn))[:, None]
        times = np.bincount(cells.ravel(), minlength=drawn.size).reshape(-1, groups).astype(np.int64)
        step = max(1, 1_000_000 // len(places))  # many cases of few groups: the blocks of groups are too long for them
        for start in range(0, len(times), step):
            yield times[start : start + step][:, places]


def _estimate(value: float, drawn: Sequence[Floats]) -> Estimate:
    values = np.concatenate(drawn) if drawn else np.array([np.nan])
    defined = values[~np.isnan(values)]
    if np.isnan(value) or 2 * len(defined) < len(values):
        return Estimate(value=None if np.isnan(value) else value, low=None, high=None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))


def _pearson(weights: Weights, first: Floats, second: Floats) -> Floats:
    """Return the correlation (R,) of values (n,) or (R, n); NaN for fewer than three cases or a constant."""
    total = weights.sum(1, keepdims=True)
    shares = weights / np.maximum(total, 1)
    a, b = (x - (shares * x).sum(1, keepdims=True) for x in (first, second))
    spread_a, spread_b = (np.sqrt((shares * x * x).sum(1)) for x in (a, b))
    undefined = (total[:, 0] < 3) | (spread_a < 1e-12) | (spread_b < 1e-12)  # differences of rounding order nothing
    found = (shares * a * b).sum(1) / np.where(undefined, 1.0, spread_a * spread_b)
    return np.where(undefined, np.nan, found)


def _over(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Floats:
    """Return the quotient (R,), NaN where the denominator is 0."""
    empty = np.asarray(denominator) == 0
    return np.where(empty, np.nan, np.asarray(numerator) / np.where(empty, 1, denominator))
