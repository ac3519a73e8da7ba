from itertools import product

import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.overlap import Counts, class_counts
from overread.metrics.rates import RATES, CaseCounts, RatesTable, count_case, rates, rates_table

NAMES = ("background", "organ", "tumour")


def test_six_rates_by_hand() -> None:
    # 3 found and true, 1 found only, 2 missed, 4 left alone
    found = rates(Counts(tp=3, fp=1, fn=2, tn=4))
    assert found == {
        "jaccard": pytest.approx(3 / 6),
        "dice": pytest.approx(6 / 9),
        "accuracy": pytest.approx(7 / 10),
        "sensitivity": pytest.approx(3 / 5),
        "specificity": pytest.approx(4 / 5),
        "precision": pytest.approx(3 / 4),
    }


@pytest.mark.parametrize(
    ("prediction", "truth", "values"),
    [  # jaccard, dice, accuracy, sensitivity, specificity, precision
        ("----", "----", (1, 1, 1, None, 1, None)),  # nothing there, nothing found
        ("##--", "----", (0, 0, 1 / 2, None, 1 / 2, 0)),  # a false alarm
        ("----", "#---", (0, 0, 3 / 4, 0, 1, None)),  # overlooked
        ("####", "####", (1, 1, 1, 1, None, 1)),  # all foreground
        ("#---", "####", (1 / 4, 2 / 5, 1 / 4, 1 / 4, None, 1)),
        ("####", "----", (0, 0, 0, None, 0, 0)),
    ],
)
def test_empty_and_full_masks(prediction: str, truth: str, values: tuple[float | None, ...]) -> None:
    first, second = (np.array([letter == "#" for letter in mask]) for mask in (prediction, truth))
    assert rates(class_counts(first, second, 2)[1]) == dict(zip(RATES, values, strict=True))


def test_every_pair_of_small_masks_against_sets() -> None:
    """Counts and rates of all 256 pairs of masks of four voxels, from the definitions on sets of voxels."""
    everywhere = frozenset(range(4))
    for bits in product((0, 1), repeat=8):
        prediction, truth = np.array(bits[:4], np.uint8), np.array(bits[4:], np.uint8)
        a, b = frozenset(np.flatnonzero(prediction)), frozenset(np.flatnonzero(truth))
        expected = {
            "jaccard": len(a & b) / len(a | b) if a | b else 1,
            "dice": 2 * len(a & b) / (len(a) + len(b)) if a | b else 1,
            "accuracy": 1 - len(a ^ b) / 4,
            "sensitivity": len(a & b) / len(b) if b else None,
            "specificity": 1 - len(a - b) / len(everywhere - b) if everywhere - b else None,
            "precision": 1 - len(a - b) / len(a) if a else None,
        }
        found = rates(count_case("", prediction, truth, ("background", "organ")).foreground)
        assert found == pytest.approx(expected), (a, b)


def test_classes_against_the_rest_and_merged() -> None:
    prediction, truth = np.array([[0, 1, 1, 2, 2]]), np.array([[0, 0, 1, 1, 2]])
    counts = count_case("a", prediction, truth, NAMES)
    assert counts == CaseCounts(
        case="a",
        foreground=Counts(tp=3, fp=1, fn=0, tn=1),  # the voxel of organ read as tumour is foreground all the same
        per_class={"organ": Counts(tp=1, fp=1, fn=1, tn=2), "tumour": Counts(tp=1, fp=1, fn=0, tn=3)},
    )
    assert counts.foreground == class_counts(prediction > 0, truth > 0, 2)[1]


def test_one_class_is_the_merged_foreground() -> None:
    counts = count_case("a", np.array([0, 1, 1, 0]), np.array([1, 1, 0, 0]), NAMES[:2])
    assert counts.per_class["organ"] == counts.foreground


def test_summary_leaves_out_what_is_undefined_and_says_n() -> None:
    rows = [
        count_case("half", np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0]), NAMES[:2]),  # sensitivity 1/2, precision 1
        count_case("whole", np.array([1, 1, 0, 0]), np.array([1, 1, 0, 0]), NAMES[:2]),  # 1 and 1
        count_case("normal", np.array([0, 0, 0, 0]), np.array([0, 0, 0, 0]), NAMES[:2]),  # undefined, undefined
        count_case("alarm", np.array([1, 0, 0, 0]), np.array([0, 0, 0, 0]), NAMES[:2]),  # undefined, 0
    ]
    found = rates_table(rows).foreground
    assert tuple(found) == RATES
    dice, sensitivity, precision = found["dice"], found["sensitivity"], found["precision"]
    assert (dice.all.mean, dice.all.n) == (pytest.approx((2 / 3 + 1 + 1 + 0) / 4), 4)
    assert (dice.foreground.mean, dice.foreground.n) == (pytest.approx(5 / 6), 2)
    assert (sensitivity.all.mean, sensitivity.all.n) == (pytest.approx(3 / 4), 2)
    assert sensitivity.all.sd == pytest.approx((2 * 0.25**2) ** 0.5)  # of the sample: divided by n - 1 = 1
    assert (precision.all.mean, precision.all.n) == (pytest.approx(2 / 3), 3)
    for rate in found.values():  # an undefined rate does not hide a normal case
        assert (rate.normal, rate.false_positives, rate.false_positive_rate) == (2, 1, 0.5)


def test_summary_by_class_group_and_json() -> None:
    rows = [
        count_case("a", np.array([0, 1, 2]), np.array([0, 1, 2]), NAMES),
        count_case("b", np.array([0, 1, 0]), np.array([0, 1, 2]), NAMES),
    ]
    table = rates_table(rows, groups=["patient", "patient"])
    assert list(table.per_class) == ["organ", "tumour"]
    assert table.per_class["organ"]["dice"].all.mean == 1
    assert table.per_class["tumour"]["sensitivity"].all.mean == 0.5
    assert table.per_class["tumour"]["dice"].all.low is None  # one group has no interval
    assert RatesTable.from_json(table.to_json()) == table


def test_no_cases_have_no_means() -> None:
    table = rates_table([])
    assert table.per_class == {} and table.foreground["dice"].all.n == 0 and table.foreground["dice"].all.mean is None


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="same shape"):
        count_case("a", np.zeros(2, int), np.zeros(3, int), NAMES)
