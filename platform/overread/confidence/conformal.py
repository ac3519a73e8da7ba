"""Split-conformal lower bound of the Dice of a case, its measured coverage, and a test for shifted data.

The nonconformity of a calibration case is s = predicted Dice - Dice: by how much it was promised too much. With one s
per calibration group (G of them) and the wanted coverage 1 - alpha, the bound of a new case is its predicted Dice minus
the k-th smallest s, k = ceil((G + 1)(1 - alpha)) (Vovk et al. 2005; Lei et al. 2018, one-sided). If new groups are like
the calibration groups, the Dice of a case of a new group is at or above its bound with chance at least 1 - alpha; with
fewer than ceil(1 / alpha) - 1 groups k exceeds G and there is no bound.

A group of several cases (frames of one patient, near-duplicates) gives the s of one of them, drawn by a hash of its
id: "subsampling once" of Dunn, Wasserman and Ramdas (arXiv:1809.07441). So the promise holds for a case drawn from a
new group, as it is measured here. The largest s of a group would promise all its cases together, and promise too
little of each.

Given the calibration groups the chance is Beta(k, G + 1 - k), so the number of N new groups that hold is
beta-binomial: its central 95 % interval is what a measured coverage is held against. Before any group is seen the
expected share is k / (G + 1), whatever predicts the Dice and however badly: only the width of the bounds tells a good
package from a poor one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.summary import group_places

COVERAGE = 0.9
SHIFT_P = 0.01
"""A shift is told below this p of either test."""
_ROUNDING = 1e-9
"""(9 + 1) * 0.9 must not become 9.000000000000002, whose ceiling is 10."""


@dataclass(frozen=True)
class Predicted:
    """A case with predicted Dice."""

    case: str
    group: str
    predicted: float


@dataclass(frozen=True)
class Judged(Predicted):
    """A case with predicted and true Dice."""

    dice: float


AnyCase = TypeVar("AnyCase", bound=Predicted)


@dataclass(frozen=True, kw_only=True)
class LowerBound(JsonRecord):
    """The calibrated bound of one target (the class mean, or a class)."""

    coverage: float
    """Wanted chance that the Dice is at or above the bound."""
    groups: int
    """Calibration groups that gave a value."""
    rank: int
    """Which of their values, in rising order from 1, is the quantile; above `groups`: none."""
    quantile: float | None
    """None: too few groups for the coverage."""

    def of(self, predicted: float | None) -> float | None:
        """Return `dice_lower_bound` in 0..1 of a predicted Dice; None without one or the other."""
        if predicted is None or self.quantile is None:
            return None
        return min(max(predicted - self.quantile, 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class MeasuredCoverage(JsonRecord):
    """How often a bound held on cases that did not calibrate it."""

    wanted: float
    groups: int
    """Measured groups, one case of each."""
    held: int
    share: float | None
    """held / groups; None without groups."""
    low: float | None
    """Central 95 % interval of the share, beta-binomial, if the new groups are like those of the calibration."""
    high: float | None
    expected: float | None = None
    """rank / (calibration groups + 1): the mean share over calibrations and new groups, for any package."""
    cases: int
    share_of_cases: float | None
    """Over all cases of all groups."""

    @property
    def as_expected(self) -> bool | None:
        """Whether the share lies in the interval; None if there is nothing to say."""
        if self.share is None or self.low is None or self.high is None:
            return None
        return self.low - _ROUNDING <= self.share <= self.high + _ROUNDING


@dataclass(frozen=True, kw_only=True)
class Shift(JsonRecord):
    """Distance of the scores of new cases from those of the calibration. None: no new case has one."""

    statistic: float | None
    """Kolmogorov-Smirnov: largest difference of the two distribution functions."""
    p: float | None
    """Of the two-sided test. Too small where cases of one patient came without their group."""
    wasserstein: float | None
    """Mean distance of the sorted scores, in units of Dice."""
    n: int
    """New groups with a score, one case of each."""
    cases: int
    """New cases with a score."""
    unscored: int = 0
    """New groups whose case has none: the worst shift leaves nothing to compare."""
    unscored_p: float | None = None
    """Fisher's one-sided test that they are no more frequent than in the calibration. None: not known of that."""

    @property
    def told(self) -> bool:
        """Whether the scores differ by more than chance."""
        return self.moved or self.vanished

    @property
    def moved(self) -> bool:
        """Whether the scores that there are differ."""
        return self.p is not None and self.p < SHIFT_P

    @property
    def vanished(self) -> bool:
        """Whether too many cases have no score."""
        return self.unscored_p is not None and self.unscored_p < SHIFT_P


def least_groups(coverage: float) -> int:
    """Return the fewest calibration groups that give a bound: ceil(1 / alpha) - 1.

    >>> least_groups(0.9), least_groups(0.95), least_groups(0.5)
    (9, 19, 1)
    """
    check_coverage(coverage)
    return math.ceil(1 / (1 - coverage) - _ROUNDING) - 1


def fit_lower_bound(cases: Sequence[Judged], coverage: float = COVERAGE, seed: int = 0) -> LowerBound:
    """Return the bound from calibration cases; a coverage outside 0..1 (both excluded) raises `UserError`."""
    check_coverage(coverage)
    chosen = one_per_group(cases, seed)
    scores = sorted(case.predicted - case.dice for case in chosen)
    rank = _rank(len(scores), coverage)
    quantile = scores[rank - 1] if rank <= len(scores) else None
    return LowerBound(coverage=coverage, groups=len(scores), rank=rank, quantile=quantile)


def one_per_group(cases: Sequence[AnyCase], seed: int = 0) -> list[AnyCase]:
    """Return one case of each group, by groups; which one depends on ids and seed, not on values or their order."""
    ranked = sorted(cases, key=lambda c: (c.group, hashlib.sha256(f"{seed}/{c.group}/{c.case}".encode()).digest()))
    return list({case.group: case for case in reversed(ranked)}.values())[::-1]


def measured_coverage(bound: LowerBound, cases: Sequence[Judged], seed: int = 0) -> MeasuredCoverage:
    """Return how often the bound holds on new cases: one of each group, and beside it over all of them."""
    found = [_holds(bound, case) for case in one_per_group(cases, seed)] if bound.quantile is not None else []
    n = len(found)
    spread = stats.betabinom(n, bound.rank, bound.groups + 1 - bound.rank) if n else None
    return MeasuredCoverage(
        wanted=bound.coverage,
        groups=n,
        held=sum(found),
        share=sum(found) / n if n else None,
        low=float(spread.ppf(0.025)) / n if spread else None,
        high=float(spread.ppf(0.975)) / n if spread else None,
        expected=expected_share(bound.groups, bound.coverage) if n else None,
        cases=len(cases) if n else 0,
        share_of_cases=float(np.mean([_holds(bound, case) for case in cases])) if n else None,
    )


def expected_share(calibration_groups: int, coverage: float = COVERAGE) -> float | None:
    """Return k / (G + 1), the expected share of new groups at or above their bound; None where there is no bound.

    The s of a new group is equally likely to fall into each of the G + 1 places between the sorted s of the
    calibration groups, so it is at most the k-th with this chance (a little more where values are equal).

    >>> expected_share(9), round(expected_share(30), 4), expected_share(8)
    (0.9, 0.9032, None)
    """
    rank = _rank(calibration_groups, coverage)
    return rank / (calibration_groups + 1) if rank <= calibration_groups else None


def resplit_coverage(
    cases: Sequence[Judged], calibration_groups: int, coverage: float = COVERAGE, repeats: int = 200, seed: int = 0
) -> list[float]:
    """Return the coverage in each of `repeats` random divisions of the groups into calibration and measurement.

    One case is drawn anew from every group each time. The mean over all divisions is `expected_share` for any cases
    whatsoever, as a division is drawn by chance: it checks that the quantile is taken right, and says nothing of the
    package nor of whether the locked groups are like those of the calibration. That is what `measured_coverage` and
    its interval are for. Raises `UserError` if a division has no bound or nothing to measure.
    """
    groups = len({case.group for case in cases})
    least = least_groups(coverage)
    if not least <= calibration_groups < groups:
        raise UserError(
            f"re-splits at coverage {coverage:g} need {least} to {groups - 1} calibration groups of {groups}, "
            f"but got {calibration_groups}: give more cases or a lower coverage"
        )
    scores = np.array([case.predicted - case.dice for case in cases])
    places = group_places([case.group for case in cases])
    members = [np.flatnonzero(places == place) for place in range(groups)]
    rank = _rank(calibration_groups, coverage)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        drawn = np.array([scores[generator.choice(own)] for own in members])[generator.permutation(groups)]
        quantile = np.sort(drawn[:calibration_groups])[rank - 1]
        found.append(float((drawn[calibration_groups:] <= quantile).mean()))
    return found


def score_shift(
    reference: Sequence[float], cases: Sequence[Predicted], *, unscored: int | None = 0, new_unscored: int = 0
) -> Shift | None:
    """Return how far the predicted Dice of new cases is from that of the calibration; None if either has no case.

    One case of each group: cases of one patient are not independent, and all of them would make a chance difference
    look sure.

    Args:
        reference: Predicted Dice of one case of each calibration group.
        cases: New cases with a predicted Dice, of any groups.
        unscored: Calibration groups whose case has none; None: not known.
        new_unscored: New groups whose case has none.

    """
    new = [case.predicted for case in one_per_group(cases)]
    if not reference or not (new or new_unscored):
        return None
    test = stats.ks_2samp(reference, new) if new else None
    lost = None if unscored is None else [[new_unscored, len(new)], [unscored, len(reference)]]
    return Shift(
        statistic=float(test.statistic) if test is not None else None,
        p=float(test.pvalue) if test is not None else None,
        wasserstein=float(stats.wasserstein_distance(reference, new)) if new else None,
        n=len(new),
        cases=len(cases),
        unscored=new_unscored,
        unscored_p=None if lost is None else float(stats.fisher_exact(lost, alternative="greater").pvalue),
    )


def _rank(groups: int, coverage: float) -> int:
    """Return k, the rank of the quantile among the values of the calibration groups."""
    return math.ceil((groups + 1) * coverage - _ROUNDING)


def _holds(bound: LowerBound, case: Judged) -> bool:
    assert bound.quantile is not None  # noqa: S101  (asked only where there is a bound)
    return case.predicted - case.dice <= bound.quantile or case.dice >= 1.0  # no bound is above 1


def check_coverage(coverage: float) -> None:
    """Raise `UserError` for a coverage outside 0..1 (both excluded)."""
    if not 0 < coverage < 1:
        raise UserError(f"the coverage of a bound must be between 0 and 1, but got {coverage:g}: 0.9 means 90 %")
