from itertools import product

import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.overlap import Counts, class_counts
from overread.metrics.rates import RATES, foreground_counts, rates


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
        found = rates(foreground_counts(prediction, truth, 2))
        assert found == pytest.approx(expected), (a, b)


def test_classes_are_merged() -> None:
    prediction, truth = np.array([[0, 1, 1, 2, 2]]), np.array([[0, 0, 1, 1, 2]])
    counts = foreground_counts(prediction, truth, 3)
    assert counts == Counts(tp=3, fp=1, fn=0, tn=1)  # the voxel of class 1 read as class 2 is foreground all the same
    assert counts == class_counts(prediction > 0, truth > 0, 2)[1]


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="same shape"):
        foreground_counts(np.zeros(2, int), np.zeros(3, int), 3)
