import numpy as np
import pytest

from overread.metrics.summary import (
    Summary,
    _by_group,
    _resampled_means,
    jackknife_error,
    paired_bootstrap,
    split_by_foreground,
    standard_error,
    summarise,
    summarise_defined,
    unpaired_bootstrap,
)


def test_mean_sd_and_n_by_hand() -> None:
    found = summarise([1.0, 2.0, 3.0, 6.0])
    assert (found.mean, found.n) == (3.0, 4)
    assert found.sd == pytest.approx((14 / 3) ** 0.5)  # 4 + 1 + 0 + 9 = 14


def test_interval_of_two_values_is_their_range() -> None:
    # a resample of two is (a, a) with chance 1/4, (b, b) with 1/4: both are within the outer 2.5 %
    found = summarise([0.0, 1.0])
    assert (found.low, found.high) == (0.0, 1.0)


def test_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    found = summarise(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.002)
    assert found.high == pytest.approx(values.mean() + half, abs=0.002)


def test_same_values_give_the_same_interval() -> None:
    values = [0.1, 0.5, 0.7, 0.9]
    assert summarise(values) == summarise(values)
    assert summarise(values, resamples=50) != summarise(values, seed=1, resamples=50)


def test_blocks_cover_all_resamples() -> None:
    # 600 000 values force blocks of one resample
    found = summarise(np.repeat([0.0, 1.0], 300_000).tolist(), resamples=20)
    assert found.low is not None and found.high is not None
    assert 0.49 < found.low < found.high < 0.51


def test_too_few_values_are_not_defined() -> None:
    assert summarise([]) == Summary(mean=None, sd=None, n=0, low=None, high=None)
    assert summarise([0.7]) == Summary(mean=0.7, sd=None, n=1, low=None, high=None)


def test_paired_bootstrap_of_a_constant_difference() -> None:
    found = paired_bootstrap([0.9, 0.5, 0.25], [0.8, 0.4, 0.15])
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    with pytest.raises(ValueError):
        paired_bootstrap([1.0], [1.0, 2.0])


def test_split_by_foreground() -> None:
    # two cases with foreground; three normal ones, of which one has a false positive
    found = split_by_foreground(
        [0.8, 0.6, 1.0, 0.0, 1.0], [True, True, False, False, False], [True] * 2 + [False, True, False]
    )
    assert found.all.mean == pytest.approx(3.4 / 5)
    assert (found.foreground.mean, found.foreground.n) == (pytest.approx(0.7), 2)
    assert (found.normal, found.false_positives) == (3, 1)
    assert found.false_positive_rate == pytest.approx(1 / 3)


def test_split_without_normal_cases_has_no_rate() -> None:
    assert split_by_foreground([0.5], [True], [True]).false_positive_rate is None


def test_undefined_values_are_left_out_of_means_but_not_of_the_false_positive_rate() -> None:
    found = split_by_foreground([0.5, None, None, 0.0], [True, True, False, False], [True, False, True, False])
    assert (found.all.mean, found.all.n, found.foreground.mean, found.foreground.n) == (0.25, 2, 0.5, 1)
    assert (found.normal, found.false_positives) == (2, 1)


def test_summary_survives_json() -> None:
    found = split_by_foreground([0.5, 0.7], [True, False], [True, False])
    assert type(found).from_json(found.to_json()) == found


def test_groups_are_resampled_with_all_their_cases() -> None:
    # Both groups hold 0 and 1: every resample of two groups has the mean 0.5, however wide the cases spread.
    found = summarise([0.0, 1.0, 0.0, 1.0], groups=["a", "a", "b", "b"])
    assert (found.mean, found.n, found.low, found.high) == (0.5, 4, 0.5, 0.5)
    assert found.sd == pytest.approx((4 * 0.25 / 3) ** 0.5)


def test_a_large_group_weighs_by_its_cases() -> None:
    # a = three zeros, b = one 1. Resamples: aa 0, bb 1, ab 1/4; the mean of the group means would be 1/2.
    sums, counts = _by_group(np.array([0.0, 1.0, 0.0, 0.0]), ["a", "b", "a", "a"])
    assert sums.tolist() == [0.0, 1.0] and counts.tolist() == [3.0, 1.0]
    assert set(_resampled_means(sums, counts, seed=0, resamples=200).tolist()) == {0.0, 0.25, 1.0}


def test_one_group_has_no_interval() -> None:
    found = summarise([0.2, 0.4], groups=["a", "a"])
    assert (found.mean, found.n, found.low, found.high) == (pytest.approx(0.3), 2, None, None)
    with pytest.raises(ValueError, match="must have a group"):
        summarise([0.2, 0.4], groups=["a"])


def test_pairs_and_splits_take_groups() -> None:
    groups = ["a", "a", "b", "b"]
    difference = paired_bootstrap([1.0, 0.5, 1.0, 0.5], [0.5, 0.5, 0.5, 0.5], groups=groups)
    assert (difference.low, difference.high) == (0.25, 0.25)
    split = split_by_foreground([0.0, 1.0, 0.0, 1.0], [True, True, True, False], [True] * 4, groups=groups)
    assert (split.all.low, split.all.high) == (0.5, 0.5)
    # with foreground: a = 0 and 1, b = 0: resamples aa 1/2, bb 0, ab 1/3
    assert (split.foreground.low, split.foreground.high) == (0.0, 0.5)


def test_means_of_different_cases_are_drawn_apart() -> None:
    found = unpaired_bootstrap([0.0, 1.0], [0.25, 0.25, 0.25])
    assert (found.mean, found.n) == (0.25, 2)
    # the first mean is 0, 0.5 or 1, the second always 0.25
    assert (found.low, found.high) == (-0.25, 0.75)
    alike = unpaired_bootstrap([0.0, 1.0, 0.0, 1.0], [0.5, 0.5], groups=(["p", "p", "q", "q"], None))
    assert (alike.low, alike.high) == (0.0, 0.0)
    assert unpaired_bootstrap([], [1.0]) == Summary(mean=None, sd=None, n=0, low=None, high=None)


def test_standard_error_by_hand() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.6])  # mean 0.3
    # each its own: sqrt(4/3 (0.04 + 0 + 0.01 + 0.09)) / 4 = sd / 2
    assert standard_error(values, np.arange(4)) == pytest.approx(values.std(ddof=1) / 2)
    # two groups: sums of deviations -0.2 and 0.2
    assert standard_error(values, np.array([0, 0, 1, 1])) == pytest.approx(np.sqrt(2 * 0.08) / 4)
    assert standard_error(values, np.zeros(4, np.intp)) == np.inf


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([0.1, 0.5, 0.6, 0.4])

    def mean(weights: np.ndarray) -> np.ndarray:
        return np.asarray(weights @ values / weights.sum(1))

    assert jackknife_error(mean, np.arange(4)) == pytest.approx(values.std(ddof=1) / 2)
    # without one of two groups of two: 0.5 and 0.3, so sqrt(1/2 (0.01 + 0.01))
    assert jackknife_error(mean, np.array([0, 0, 1, 1])) == pytest.approx(0.1)
    assert jackknife_error(mean, np.zeros(4, np.intp)) == np.inf


def test_undefined_values_are_left_out_with_their_groups() -> None:
    assert summarise_defined([0.2, None, 0.6], groups=["a", "b", "a"]) == summarise([0.2, 0.6], groups=["a", "a"])
    assert summarise_defined(iter([None, 0.5])) == summarise([0.5])
