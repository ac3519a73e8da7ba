import numpy as np
import pytest

from overread.ensemble.evaluate import EvaluationTable, evaluate_readings
from overread.errors import UserError

LABELS = ("background", "organ", "lesion")
READINGS = [
    # organ: tp 1, fp 1, fn 0; lesion absent in both
    ("half", np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])),
    # organ right; lesion missed
    ("missed", np.array([1, 0, 0, 0]), np.array([1, 0, 2, 0])),
    ("normal", np.array([0, 0, 0, 0]), np.array([0, 0, 0, 0])),
    ("false alarm", np.array([0, 2, 0, 0]), np.array([0, 0, 0, 0])),
]


def test_table_by_hand() -> None:
    table = evaluate_readings(READINGS, LABELS)
    half, missed, normal, alarm = table.cases
    assert half.per_class["dice"] == {"organ": pytest.approx(2 / 3), "lesion": None}
    assert half.mean == {
        "dice": pytest.approx(2 / 3),
        "jaccard": 0.5,
        "sensitivity": 1.0,
        "precision": 0.5,
    }
    assert missed.mean["dice"] == 0.5
    assert (normal.mean["dice"], alarm.mean["dice"]) == (1.0, 0.0)
    assert [case.truth_foreground for case in table.cases] == [True, True, False, False]
    assert [case.predicted_foreground for case in table.cases] == [True, True, False, True]


def test_summary_tells_normal_cases_apart_with_n() -> None:
    dice = evaluate_readings(READINGS, LABELS).overall["dice"]
    assert (dice.all.mean, dice.all.n) == (pytest.approx((2 / 3 + 0.5 + 1 + 0) / 4), 4)
    assert (dice.foreground.mean, dice.foreground.n) == (pytest.approx((2 / 3 + 0.5) / 2), 2)
    assert (dice.normal, dice.false_positives, dice.false_positive_rate) == (2, 1, 0.5)


def test_classes_count_only_where_they_are() -> None:
    per_class = evaluate_readings(READINGS, LABELS, ("dice",)).per_class
    assert list(per_class) == ["dice"]
    assert (per_class["dice"]["organ"].mean, per_class["dice"]["organ"].n) == (pytest.approx((2 / 3 + 1) / 2), 2)
    assert (per_class["dice"]["lesion"].mean, per_class["dice"]["lesion"].n) == (0.0, 2)


def test_no_cases() -> None:
    table = evaluate_readings([], LABELS)
    assert table.cases == ()
    assert (table.overall["dice"].all.mean, table.overall["dice"].all.n) == (None, 0)


def test_table_survives_json() -> None:
    table = evaluate_readings(READINGS, LABELS)
    assert EvaluationTable.from_json(table.to_json()) == table


def test_mistakes_name_the_case() -> None:
    with pytest.raises(UserError, match="unknown metric 'hd': choose one of accuracy"):
        evaluate_readings(READINGS, LABELS, ("hd",))
    with pytest.raises(UserError, match="case a: prediction and truth must have the same shape"):
        evaluate_readings([("a", np.zeros(2, int), np.zeros(3, int))], LABELS)
    with pytest.raises(UserError, match="case normal must be evaluated once"):
        evaluate_readings([READINGS[2], READINGS[2]], LABELS)


def test_surfaces_by_hand() -> None:
    # A pixel each, three columns apart: no surface is within a tolerance of 2, both are within 3; a column is 0.5 mm.
    apart = np.array([[1, 0, 0, 0]]), np.array([[0, 0, 0, 1]])
    readings = [("apart", *apart), ("missed", np.zeros((1, 4), int), apart[1]), ("normal", *np.zeros((2, 1, 4), int))]
    table = evaluate_readings(readings, LABELS, ("nsd", "hd95", "dice"), tolerance=2)
    apart_row, missed, normal = table.cases
    assert apart_row.per_class["hd95"] == {"organ": 3.0, "lesion": None}
    assert apart_row.mean == {"nsd": 0.0, "hd95": 3.0, "dice": 0.0}
    assert missed.mean == {"nsd": 0.0, "hd95": None, "dice": 0.0}  # no distance is to nothing
    assert normal.mean == {"nsd": 1.0, "hd95": 0.0, "dice": 1.0}
    assert (table.unit, table.tolerance) == ("pixels", 2)
    assert (table.per_class["nsd"]["organ"].n, table.per_class["hd95"]["organ"].n) == (2, 1)
    assert (table.overall["hd95"].all.mean, table.overall["hd95"].all.n) == (1.5, 2)
    assert (table.overall["hd95"].foreground.mean, table.overall["nsd"].foreground.n) == (3.0, 2)
    (row,) = evaluate_readings(
        readings[:1], LABELS, ("nsd", "hd95"), tolerance=1.5, spacings={"apart": (1.0, 0.5)}
    ).cases
    assert (row.mean, row.unit) == ({"nsd": 1.0, "hd95": 1.5}, "mm")
    assert EvaluationTable.from_json(table.to_json()) == table
