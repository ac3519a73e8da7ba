import numpy as np
import pytest
from scipy import stats

from overread.confidence.conformal import (
    Judged,
    LowerBound,
    MeasuredCoverage,
    Predicted,
    expected_share,
    fit_lower_bound,
    least_groups,
    measured_coverage,
    one_per_group,
    resplit_coverage,
    score_shift,
)
from overread.errors import UserError


def judged(scores: list[float], group: str = "") -> list[Judged]:
    """Return a case per nonconformity, predicted at 0.9; each its own group unless one is named."""
    return [Judged(f"c{i}", group or f"g{i}", 0.9, 0.9 - score) for i, score in enumerate(scores)]


TEN = judged([0.05, -0.1, 0.3, 0.0, 0.1, 0.2, -0.05, 0.15, 0.25])  # nine groups


def test_quantile_by_hand() -> None:
    # nine groups at 90 %: rank ceil(10 * 0.9) = 9, the largest; at 50 %: rank 5 of -0.1 -0.05 0 0.05 0.1 ...
    assert fit_lower_bound(TEN).quantile == pytest.approx(0.3)
    assert fit_lower_bound(TEN).rank == 9
    assert fit_lower_bound(TEN, 0.5).quantile == pytest.approx(0.1)


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99), (0.5, 1), (0.85, 6)])
def test_no_bound_below_the_number_that_the_level_needs(coverage: float, least: int) -> None:
    assert least_groups(coverage) == least
    assert fit_lower_bound(judged([0.1] * least), coverage).quantile == pytest.approx(0.1)
    few = fit_lower_bound(judged([0.1] * (least - 1)), coverage)
    assert few.quantile is None and few.of(0.9) is None


def test_bound_of_a_case() -> None:
    bound = LowerBound(coverage=0.9, groups=9, rank=9, quantile=0.3)
    assert bound.of(0.9) == pytest.approx(0.6)
    assert (bound.of(0.2), bound.of(None)) == (0.0, None)
    low = LowerBound(coverage=0.5, groups=9, rank=5, quantile=-0.2)
    assert low.of(0.5) == pytest.approx(0.7)
    assert low.of(0.95) == 1.0


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(UserError, match=r"0\.9 means 90 %"):
        fit_lower_bound(TEN, coverage)


def test_a_group_gives_one_value_whatever_the_order() -> None:
    cases = judged([0.1, 0.2, 0.3, 0.4], "p") + judged([0.5])
    chosen = one_per_group(cases)
    assert [case.group for case in chosen] == ["g0", "p"]
    assert one_per_group(cases[::-1]) == chosen
    drawn = {one_per_group(cases, seed)[1].case for seed in range(40)}
    assert drawn == {"c0", "c1", "c2", "c3"}  # each may be drawn
    assert fit_lower_bound(cases, 0.5).groups == 2


def test_measured_coverage_by_hand() -> None:
    bound = fit_lower_bound(TEN)  # quantile 0.3, Beta(9, 1)
    new = judged([0.1, 0.31, 0.3 - 1e-12, -0.4]) + judged([0.5, 0.5], "p")
    found = measured_coverage(bound, new)
    assert (found.groups, found.held, found.share, found.cases) == (5, 3, 0.6, 6)
    assert found.share_of_cases == pytest.approx(3 / 6)
    # five groups under Beta(9, 1): P(X = x) = 9 C(5, x) B(x + 9, 6 - x), as fractions of 2002: x = 5 has 1287, x = 4
    # has 495, x = 3 has 165, x = 2 has 45: the 2.5 % point of 50.05 / 2002 is reached at x = 2 (10 + 45 = 55)
    assert found.low == pytest.approx(2 / 5)
    assert found.high == 1.0
    assert found.as_expected
    assert found.expected == 0.9  # rank 9 of nine groups: 9 / 10
    assert MeasuredCoverage.from_json(found.to_json()) == found


def test_nothing_to_measure() -> None:
    found = measured_coverage(fit_lower_bound(judged([0.1])), TEN)
    assert (found.share, found.as_expected, found.groups, found.expected) == (None, None, 0, None)
    assert measured_coverage(fit_lower_bound(TEN), []).share is None


def world(rng: np.random.Generator, groups: int) -> list[Judged]:
    """Groups of one to four alike cases, whose number says how badly they are promised."""
    cases = []
    for g in range(groups):
        size = int(rng.integers(1, 5))
        own = rng.normal(0.03 * size, 0.1)
        for i in range(size):
            cases.append(Judged(f"{g}-{i}", f"{g}", 0.8, 0.8 - float(own + rng.normal(0, 0.03))))
    return cases


def test_the_promise_holds_on_average_for_a_case_of_a_new_group() -> None:
    rng = np.random.default_rng(0)
    shares, inside = [], 0
    for seed in range(300):
        found = measured_coverage(fit_lower_bound(world(rng, 19), seed=seed), world(rng, 30), seed=seed)
        assert found.share is not None
        shares.append(found.share)
        inside += bool(found.as_expected)
    # rank 18 of 19: 18 / 20 exactly; standard error of the mean of 300 about 0.005
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)
    assert inside / 300 >= 0.92


def test_one_value_per_case_would_break_the_promise_of_the_interval() -> None:
    # Cases of a group are alike: counted one by one the quantile of 5 groups of 8 pretends to know 40.
    few = [Judged(f"{g}-{i}", f"{g}", 0.8, 0.8 - 0.1 * g) for g in range(5) for i in range(8)]
    assert fit_lower_bound(few).quantile is None


def test_resplits() -> None:
    cases = world(np.random.default_rng(1), 60)
    found = resplit_coverage(cases, 29, repeats=200)
    assert len(found) == 200
    # rank 27 of 29: expected 27 / 30 of the groups of a finite set
    assert np.mean(found) == pytest.approx(0.9, abs=0.02)
    assert min(found) < max(found)
    with pytest.raises(UserError, match="need 9 to 59 calibration groups of 60, but got 8"):
        resplit_coverage(cases, 8)
    with pytest.raises(UserError, match="but got 60"):
        resplit_coverage(cases, 60)


def test_resplits_of_a_known_rank() -> None:
    # distinct scores of nine groups, eight calibrate at 50 %: rank 5 of 8 holds for the ninth with chance 5 / 9
    found = resplit_coverage(TEN, 8, 0.5, repeats=2000)
    assert set(found) == {0.0, 1.0}
    assert np.mean(found) == pytest.approx(5 / 9, abs=0.04)


def test_resplits_come_to_the_expected_share_whatever_the_package_is_worth() -> None:
    # nineteen of thirty groups calibrate at 80 %: rank 16, so 16 / 20, for exact predictions and for thrown dice
    rng = np.random.default_rng(3)
    exact = judged([float(v) for v in rng.normal(0, 1e-3, 30)])
    guessed = judged([float(v) for v in rng.uniform(-0.9, 0.9, 30)])
    for cases in (exact, guessed):
        assert np.mean(resplit_coverage(cases, 19, 0.8, repeats=1000)) == pytest.approx(0.8, abs=0.02)
    assert expected_share(19, 0.8) == 16 / 20
    assert (expected_share(4, 0.8), expected_share(3, 0.8)) == (4 / 5, None)


def predicted(values: list[float], per_group: int = 1) -> list[Predicted]:
    """Return every value `per_group` times, as cases of one patient."""
    return [Predicted(f"{g}-{i}", f"{g}", value) for g, value in enumerate(values) for i in range(per_group)]


def test_shift() -> None:
    reference = [i / 20 for i in range(20)]
    assert score_shift([], predicted([0.5])) is None
    assert score_shift(reference, []) is None
    same = score_shift(reference, predicted(reference))
    assert same is not None
    assert (same.statistic, same.p, same.wasserstein, same.n) == (0.0, 1.0, 0.0, 20)
    assert not same.told
    moved = score_shift(reference, predicted([value - 0.575 for value in reference]))
    assert moved is not None
    assert moved.statistic == pytest.approx(12 / 20)  # twelve of twenty lie below all others
    assert moved.wasserstein == pytest.approx(0.575)
    assert moved.told


def test_cases_without_a_score_are_a_shift_where_the_calibration_had_few() -> None:
    reference = [i / 20 for i in range(20)]
    # 3 of 3 new groups against 1 of 21: Fisher's one-sided p is C(21,1)C(3,3)/C(24,4) = 21 / 10626
    lost = score_shift(reference, [], unscored=1, new_unscored=3)
    assert lost is not None and lost.unscored_p == pytest.approx(21 / 10626)
    assert (lost.statistic, lost.p, lost.n, lost.unscored) == (None, None, 0, 3) and lost.told
    before = score_shift(reference, [], unscored=None, new_unscored=3)
    assert before is not None and before.unscored_p is None and not before.told  # a package of an earlier version
    some = score_shift(reference, predicted(reference), unscored=1, new_unscored=1)
    assert some is not None and some.unscored_p is not None and some.unscored_p > 0.5 and not some.told


def test_the_cases_of_a_patient_count_once_in_a_shift() -> None:
    # twelve of twenty calibration groups lie below five patients, of whom four alike frames each are read
    reference = [i / 20 for i in range(20)]
    values = [0.6, 0.65, 0.7, 0.8, 0.9]
    found = score_shift(reference, predicted(values, per_group=4))
    assert found is not None
    assert (found.statistic, found.n, found.cases) == (pytest.approx(12 / 20), 5, 20)
    assert found.p == pytest.approx(stats.ks_2samp(reference, values).pvalue)
    assert not found.told
    apart = score_shift(reference, predicted([value for value in values for _ in range(4)]))
    assert apart is not None and apart.n == 20
    assert apart.told  # what counting frames would have said


def test_scipy_agrees_on_the_interval() -> None:
    bound = LowerBound(coverage=0.9, groups=30, rank=28, quantile=0.1)
    found = measured_coverage(bound, judged([0.0] * 25))
    rng = np.random.default_rng(2)
    simulated = stats.binom.rvs(25, rng.beta(28, 3, 20000), random_state=rng) / 25
    assert found.low is not None
    assert np.mean(simulated < found.low) <= 0.03
    assert np.mean(simulated <= found.low) >= 0.02
