import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.generalised_energy import generalised_energy_distance, iou_distances

A, B, NONE = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)


def test_distances_by_hand():
    # A and B share one voxel of three; nothing is like nothing and unlike anything.
    expected = [[0, 2 / 3, 1], [2 / 3, 0, 1], [1, 1, 0]]
    assert iou_distances(np.stack([A, B, NONE]), np.stack([A, B, NONE])) == pytest.approx(np.array(expected))
    assert iou_distances(np.stack([A]), np.stack([B, NONE])).shape == (1, 2)


@pytest.mark.parametrize(
    ("readings", "annotations", "expected"),
    [
        ([A], [A], 0),
        ([A, B], [B, A, A, B], 0),  # the same opinions, equally often
        ([A], [B], 2 * 2 / 3),
        ([A], [A, B], 2 * 1 / 3 - 1 / 3),  # d(Y, Y') has two zeros and two 2/3 in it
        ([NONE], [A], 2),
        ([NONE, NONE], [NONE], 0),
        ([A, B], [NONE, A], 2 * (1 + 0 + 1 + 2 / 3) / 4 - 1 / 3 - 1 / 2),
    ],
)
def test_the_energy_distance_by_hand(readings, annotations, expected):
    found = generalised_energy_distance(np.stack(readings), np.stack(annotations))
    assert found == pytest.approx(expected)
    assert generalised_energy_distance(np.stack(annotations), np.stack(readings)) == pytest.approx(expected)


def test_saying_all_opinions_is_better_than_saying_the_mean_one():
    rng = np.random.default_rng(0)
    annotations = rng.random((4, 3, 5, 7)) < np.array([0.2, 0.4, 0.6, 0.8]).reshape(4, 1, 1, 1)
    one = generalised_energy_distance((annotations.mean(0) > 0.5)[None], annotations)
    assert 0 == generalised_energy_distance(annotations[::-1], annotations) < one < 2


def test_bad_input_is_named():
    with pytest.raises(UserError, match="same shape"):
        iou_distances(np.zeros((1, 4), bool), np.zeros((1, 5), bool))
    with pytest.raises(UserError, match="1 and 0"):
        generalised_energy_distance(A[None], np.zeros((0, 4), bool))
