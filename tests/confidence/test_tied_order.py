import numpy as np
import pytest

from overread.confidence.tied_order import TiedOrder

ONES = np.ones((1, 4), np.int64)


def test_ties_grow_linearly_and_none_comes_last() -> None:
    order = TiedOrder([0.5, None, 0.9, 0.5])
    values = np.array([1.0, 8.0, 10.0, 3.0])
    kept = np.array([1, 2, 3, 4])
    # 10; then either of 1 and 3; then both; then the case without a confidence
    assert order.first(np.repeat(ONES, 4, axis=0), values, kept).tolist() == [10.0, 12.0, 14.0, 22.0]


def test_cases_without_a_confidence_come_last_by_rising_foreground() -> None:
    order = TiedOrder([None, 0.1, None, None], foreground=[0.8, 1.0, 0.2, 0.2])
    assert order.level.tolist() == [2, 0, 1, 1]
    assert TiedOrder([None, 0.1, None, None]).level.tolist() == [1, 0, 1, 1]  # nothing known: tied


def test_midranks() -> None:
    assert TiedOrder([0.5, None, 0.9, 0.5]).midranks(ONES).tolist() == [[2.5, 4.0, 1.0, 2.5]]


def test_weights_count_a_case_several_times_or_not_at_all() -> None:
    order = TiedOrder([0.5, None, 0.9, 0.5])
    weights = np.array([[2, 1, 0, 1]])
    before, inside = order.counts(weights)
    assert before.tolist() == [[0, 0, 3]]
    assert inside.tolist() == [[0, 3, 1]]
    # the first of three tied cases, two of which have the value 1 and one 3: mean 5 / 3
    assert order.first(weights, np.array([1.0, 8.0, 10.0, 3.0]), np.array([1])) == pytest.approx([5 / 3])


def test_nan_is_no_confidence() -> None:
    with pytest.raises(ValueError, match="one is NaN"):
        TiedOrder([0.5, float("nan")])
