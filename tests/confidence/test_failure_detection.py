"""Figures worked by hand, and against a second implementation that goes through all orders of tied cases."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby, pairwise, permutations, product

import numpy as np
import pytest
from scipy import stats

from overread.confidence.coverage import correlation, coverage_curve
from overread.confidence.failure_detection import (
    Estimate,
    FailureDetection,
    aurc_difference,
    failure_detection,
    pearson_difference,
)

CONFIDENCE = [0.9, 0.8, 0.6, 0.3]
DICE = [0.9, 0.5, 0.8, 0.2]  # risks 0.1 0.5 0.2 0.8


def figures(confidence: Sequence[float | None], dice: Sequence[float], **options: object) -> FailureDetection:
    return failure_detection(confidence, dice, resamples=20, **options)  # type: ignore[arg-type]


def test_areas_by_hand() -> None:
    found = figures(CONFIDENCE, DICE)
    # sums of risks 0.1 0.6 0.8 1.6; R_k / k: 0.1 0.3 0.2667 0.4
    assert found.aurc.value == pytest.approx((0.1 + 0.3 + 0.8 / 3 + 0.4) / 4)
    # best order 0.1 0.2 0.5 0.8: 0.1 0.15 0.2667 0.4
    assert found.excess_aurc.value == pytest.approx((0.3 - 0.15) / 4)
    # trapezoids of 0, 0.1, 0.6, 0.8, 1.6 over 4, of width 1 / 4
    assert found.augrc.value == pytest.approx((0.05 + 0.35 + 0.7 + 1.2) / 16)


def test_failures_and_risks_by_hand() -> None:
    found = figures(CONFIDENCE, DICE, failure_dice=0.6, coverages=(25, 50, 60, 100))
    # failures are the second and the last: of four (failure, success) pairs only (second, third) is in wrong order
    assert found.auroc.value == pytest.approx(3 / 4)
    assert (found.n, found.groups, found.failures, found.unscored) == (4, 4, 2, 0)
    risks = {share: risk.value for share, risk in found.risk_at.items()}
    assert risks == pytest.approx({"25": 0.1, "50": 0.3, "60": 0.8 / 3, "100": 0.4})  # 60 % of 4 are 3 cases


def test_calibration_error_by_hand() -> None:
    # bins [0.2, 0.3): one case 0.05 too low; [0.9, 1]: scores 0.9 and 1.0 against 0.7 and 0.8, both 0.2 too high
    found = figures([0.25, 0.9, 1.0, None], [0.3, 0.7, 0.8, 0.0])
    assert found.ece.value == pytest.approx((0.05 + 2 * 0.2) / 3)
    # in one bin too high and too low take each other off
    assert figures([0.31, 0.39], [0.2, 0.5]).ece.value == pytest.approx(0.0)


def test_what_is_not_defined() -> None:
    found = figures([-0.2, -0.1, -0.3], [0.9, 0.8, 0.9])
    assert found.ece == found.auroc == Estimate(value=None, low=None, high=None)  # no Dice in 0..1, no failure
    constant = figures([0.5, 0.5, 0.5], [0.9, 0.8, 0.7])
    assert constant.pearson.value is constant.spearman.value is None
    assert constant.aurc.value == pytest.approx(0.2)  # any order: R_k / k is 0.2 in expectation
    nothing = figures([None, None], [0.4, 0.6])
    assert (nothing.unscored, nothing.ece.value) == (2, None)
    assert nothing.aurc.value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one confidence and Dice per case, but got 0 and 0"):
        figures([], [])


def brute_force(confidence: Sequence[float | None], risk: list[Fraction]) -> tuple[Fraction, Fraction]:
    """Return AURC and AUGRC as means over every order that the confidence allows, in exact arithmetic."""
    values = [-np.inf if c is None else c for c in confidence]
    ranked = sorted(range(len(risk)), key=lambda i: values[i], reverse=True)
    runs = [list(run) for _, run in groupby(ranked, key=lambda i: confidence[i])]
    areas, general = [], []
    for order in product(*(permutations(run) for run in runs)):
        sums = [Fraction(0)]
        for run in order:
            for i in run:
                sums.append(sums[-1] + risk[i])
        n = len(risk)
        areas.append(sum((total / k for k, total in enumerate(sums) if k), Fraction(0)) / n)
        general.append(sum(((a + b) / 2 for a, b in pairwise(sums)), Fraction(0)) / n**2)
    return sum(areas, Fraction(0)) / len(areas), sum(general, Fraction(0)) / len(general)


@pytest.mark.parametrize("seed", range(12))
def test_areas_are_those_of_all_orders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    confidence = [None if level == 0 else float(level) for level in rng.integers(0, 4, n)]
    dice = [Fraction(int(value), 10) for value in rng.integers(0, 11, n)]
    found = figures(confidence, [float(value) for value in dice])
    aurc, augrc = brute_force(confidence, [1 - value for value in dice])
    assert found.aurc.value == pytest.approx(float(aurc))
    assert found.augrc.value == pytest.approx(float(augrc))
    best, _ = brute_force([float(value) for value in dice], [1 - value for value in dice])
    assert found.excess_aurc.value == pytest.approx(float(aurc - best))


def test_binary_risks_have_the_closed_form_of_the_paper() -> None:
    # Traub et al. 2024: AUGRC = (1 - AUROC) a (1 - a) + (1 - a)^2 / 2, ties included
    rng = np.random.default_rng(3)
    confidence = [float(level) for level in rng.integers(0, 6, 60)]
    dice = [float(value) for value in rng.integers(0, 2, 60)]
    found = figures(confidence, dice, failure_dice=0.5)
    a = float(np.mean(dice))
    assert found.auroc.value is not None
    assert found.augrc.value == pytest.approx((1 - found.auroc.value) * a * (1 - a) + (1 - a) ** 2 / 2)


def test_agrees_with_scipy_and_the_coverage_curve() -> None:
    rng = np.random.default_rng(5)
    dice = rng.uniform(0, 1, 40)
    confidence = [None if i % 9 == 0 else round(float(d + rng.normal(0, 0.2)), 1) for i, d in enumerate(dice)]
    found = figures(confidence, list(dice), failure_dice=0.5, coverages=(30, 77))
    known = correlation(confidence, list(dice))
    assert (found.pearson.value, found.spearman.value) == pytest.approx((known.pearson, known.spearman))
    curve = coverage_curve(confidence, list(dice), (30, 77))
    assert [risk.value for risk in found.risk_at.values()] == pytest.approx([1 - point.dice for point in curve])
    scores = np.array([-9.0 if c is None else c for c in confidence])
    u = stats.mannwhitneyu(scores[dice >= 0.5], scores[dice < 0.5]).statistic
    assert found.auroc.value == pytest.approx(u / ((dice >= 0.5).sum() * (dice < 0.5).sum()))


def test_a_case_drawn_twice_is_two_cases() -> None:
    # One resample: the interval is that one figure, computed here by repeating the cases of the drawn groups.
    groups = ["p", "p", "q", "r"]
    drawn = np.random.default_rng(7).integers(0, 3, (1, 3))[0]
    cases = [i for g in drawn for i, name in enumerate(groups) if name == "pqr"[g]]
    assert len(set(drawn)) < 3  # else nothing is drawn twice
    found = failure_detection(CONFIDENCE, DICE, groups=groups, seed=7, resamples=1, failure_dice=0.6)
    again = figures([CONFIDENCE[i] for i in cases], [DICE[i] for i in cases], failure_dice=0.6)
    for name in ("aurc", "excess_aurc", "augrc", "auroc", "spearman", "pearson", "ece"):
        assert getattr(found, name).low == pytest.approx(getattr(again, name).value), name
    assert found.risk_at["50"].high == pytest.approx(again.risk_at["50"].value)


def test_intervals_are_by_group() -> None:
    # Two patients alike: every resample of patients has the same cases in the same shares.
    found = figures([0.9, 0.1, 0.9, 0.1], [0.9, 0.3, 0.9, 0.3], groups=["p", "p", "q", "q"])
    assert found.groups == 2
    assert found.aurc.low == found.aurc.high == pytest.approx(found.aurc.value)
    one = figures([0.9, 0.1], [0.9, 0.3], groups=["p", "p"])
    assert (one.aurc.low, one.aurc.high) == (None, None)
    assert one.aurc.value == pytest.approx((0.1 + 0.4) / 2)


def test_intervals_cover_the_true_area_about_as_often_as_they_say() -> None:
    # Uniform risk and a confidence that says nothing: the area is the mean risk, 0.5.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        dice = list(rng.uniform(0, 1, 40))
        found = failure_detection(list(rng.uniform(0, 1, 40)), dice, resamples=200)
        assert found.aurc.low is not None and found.aurc.high is not None
        hits += found.aurc.low <= 0.5 <= found.aurc.high
    assert 85 <= hits <= 100  # 95 % of 100, less four standard errors and what a bootstrap of 40 cases lacks


def test_paired_difference() -> None:
    rng = np.random.default_rng(1)
    dice = list(rng.uniform(0, 1, 50))
    good = [d + float(rng.normal(0, 0.05)) for d in dice]
    found = aurc_difference(good, list(rng.uniform(0, 1, 50)), dice, resamples=200)
    assert found.difference.value == pytest.approx(found.first - found.second)
    assert found.difference.high is not None and found.difference.high < 0
    assert found.relative_high == pytest.approx(found.difference.high / found.second)
    # Paired: a confidence against a monotone function of itself differs in no resample.
    two = aurc_difference([2.0, 1.0], [1.0, 2.0], [1.0, 0.6], second_dice=[0.8, 0.9], resamples=50)
    assert (two.first, two.second) == (pytest.approx(0.1), pytest.approx((0.1 + 0.15) / 2))  # each by its own masks
    same = aurc_difference(good, [3 * g + 1 for g in good], dice, resamples=50)
    assert same.difference == Estimate(value=0.0, low=0.0, high=0.0)


def test_a_difference_of_excess_is_of_detection_alone() -> None:
    # Perfect orders of masks that differ by 0.2: all of the difference of AURC is of the masks.
    dice = [0.9, 0.7, 0.5]
    found = aurc_difference([3.0, 2.0, 1.0], [3.0, 2.0, 1.0], dice, second_dice=[d - 0.2 for d in dice], resamples=20)
    assert found.difference.value == pytest.approx(-0.2)
    assert (found.first_excess, found.second_excess) == (pytest.approx(0), pytest.approx(0))
    assert found.excess_difference is not None and found.excess_difference.value == pytest.approx(0)
    own = aurc_difference([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], dice, resamples=20)
    assert own.excess_difference == own.difference  # one mask
    assert own.second_excess == pytest.approx(own.second - own.first)  # the first order is the best


def test_foreground_ranks_cases_without_a_confidence() -> None:
    # One overlooked finding, one rightly empty case: told apart by their foreground probability alone.
    confidence, dice = [0.9, None, None], [0.8, 0.0, 1.0]
    ranked = figures(confidence, dice, foreground=[1.0, 0.4, 0.1])
    assert ranked.aurc.value == pytest.approx((0.2 + 0.2 / 2 + 1.2 / 3) / 3)
    assert ranked.auroc.value == 1.0 and ranked.unscored == 2
    assert figures(confidence, dice).auroc.value == 0.75
    swapped = figures(confidence, dice, foreground=[1.0, 0.1, 0.4])
    assert swapped.auroc.value == 0.5


def test_records_survive_json() -> None:
    found = figures(CONFIDENCE, DICE)
    assert FailureDetection.from_json(found.to_json()) == found


def test_a_difference_of_correlations_is_paired() -> None:
    rising = [(0.1, 0.1), (0.2, 0.3), (0.3, 0.2), (0.4, 0.4)]
    falling = [(-score, dice) for score, dice in rising]
    found = pearson_difference(rising, falling)
    assert found.value == pytest.approx(1.6)  # r = 0.04 / 0.05 and -0.8
    assert pearson_difference(rising, rising) == Estimate(value=0.0, low=0.0, high=0.0)
    assert pearson_difference(rising[:2], rising[:2]).value is None
    with pytest.raises(ValueError, match="two pairs"):
        pearson_difference(rising, rising[:2])
