import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.overlap import METRICS, Counts, case_dice, class_counts, dice

A = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
B = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], bool)
EMPTY = np.zeros((2, 4), bool)
FULL = ~EMPTY
# A predicts, B is true: tp 1, fp 2, fn 1, tn 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dice", 2 / 5),
        ("jaccard", 1 / 4),
        ("sensitivity", 1 / 2),
        ("precision", 1 / 3),
        ("specificity", 4 / 6),
        ("accuracy", 5 / 8),
    ],
)
def test_value_by_hand(name: str, value: float) -> None:
    assert METRICS[name](A, B) == pytest.approx(value)


@pytest.mark.parametrize("name", ["dice", "jaccard", "sensitivity", "precision"])
def test_both_empty_one_and_one_empty_zero(name: str) -> None:
    assert METRICS[name](EMPTY, EMPTY) == 1
    assert METRICS[name](A, EMPTY) == 0
    assert METRICS[name](EMPTY, A) == 0


def test_specificity_treats_the_outside_alike() -> None:
    specificity = METRICS["specificity"]
    assert specificity(FULL, FULL) == 1
    assert specificity(A, FULL) == 0
    assert specificity(FULL, A) == 0
    assert specificity(EMPTY, EMPTY) == 1


def test_accuracy_of_empty_masks_counts_all_voxels() -> None:
    assert METRICS["accuracy"](A, EMPTY) == pytest.approx(5 / 8)


def test_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'hausdorf'.*dice, jaccard"):
        METRICS["hausdorf"]


def test_counts_by_class() -> None:
    prediction, truth = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert class_counts(prediction, truth, 3) == (
        Counts(tp=1, fp=0, fn=0, tn=3),
        Counts(tp=1, fp=1, fn=0, tn=2),
        Counts(tp=1, fp=0, fn=1, tn=2),
    )


def test_case_dice_leaves_out_classes_absent_in_both() -> None:
    prediction, truth = np.array([1, 1, 0, 0], np.uint8), np.array([1, 0, 0, 2], np.uint8)
    found = case_dice(prediction, truth, classes=4)
    assert found.per_class == (pytest.approx(2 / 3), 0.0, None)
    assert found.mean == pytest.approx(1 / 3)


def test_case_dice_of_empty_case_is_one() -> None:
    empty = np.zeros((2, 3, 4), np.uint8)
    assert case_dice(empty, empty, 3).per_class == (None, None)
    assert case_dice(empty, empty, 3).mean == 1


def test_ids_do_not_overflow_their_type() -> None:
    mask = np.full(5, 199, np.uint8)
    assert case_dice(mask, mask, 200).per_class[198] == 1


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"same shape, but got \(2,\) and \(3,\)"):
        dice(np.zeros(2, bool), np.zeros(3, bool))
    with pytest.raises(UserError, match=r"truth must hold class ids in 0\.\.1, but got 0\.\.2"):
        case_dice(np.array([0, 1]), np.array([0, 2]), 2)
    with pytest.raises(UserError, match="prediction must hold"):
        case_dice(np.array([0, -1]), np.array([0, 1]), 2)


def test_counts_add_up_and_have_a_complement() -> None:
    first, second = Counts(tp=1, fp=2, fn=3, tn=4), Counts(tp=10, fp=20, fn=30, tn=40)
    assert first + second == Counts(tp=11, fp=22, fn=33, tn=44)
    assert first.complement == Counts(tp=4, fp=3, fn=2, tn=1)
    assert class_counts(~A, ~B, 2)[1] == class_counts(A, B, 2)[1].complement


def test_strict_metrics_are_undefined_where_they_are_a_share_of_nothing() -> None:
    nothing_true, nothing_found = Counts(tp=0, fp=1, fn=0, tn=3), Counts(tp=0, fp=0, fn=1, tn=3)
    assert METRICS["sensitivity"].strict(nothing_true) is None and METRICS["precision"].strict(nothing_true) == 0
    assert METRICS["precision"].strict(nothing_found) is None and METRICS["sensitivity"].strict(nothing_found) == 0
    assert METRICS["specificity"].strict(Counts(tp=3, fp=0, fn=1, tn=0)) is None
    assert METRICS["dice"].strict(Counts(tp=0, fp=0, fn=0, tn=4)) == 1
