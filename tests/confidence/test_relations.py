import tracemalloc

import numpy as np
import pytest

from overread.confidence.relations import Relations
from overread.errors import UserError
from overread.metrics.overlap import case_dice

# class 1 unless said              0  1  2  3  4  5
FIRST = np.array([[1, 1, 1], [1, 0, 2]], np.uint8)
SECOND = np.array([[1, 1, 0], [0, 0, 2]], np.uint8)
THIRD = np.array([[1, 0, 0], [1, 1, 2]], np.uint8)


def relations_of(*masks: np.ndarray, classes: int = 3) -> Relations:
    relations = Relations(masks[0].shape, classes)
    for index, mask in enumerate(masks):
        relations.add(mask, str(index))
    return relations


def test_possible_and_consensus_by_hand() -> None:
    relations = relations_of(FIRST, SECOND, THIRD)
    assert relations.possible(1).tolist() == [[True, True, True], [True, True, False]]
    assert relations.consensus(1).tolist() == [[True, False, False], [False, False, False]]
    assert relations.possible(2).sum() == relations.consensus(2).sum() == 1


def test_scores_by_hand() -> None:
    relations = relations_of(FIRST, SECOND, THIRD)
    assert relations.relation_confidence(1) == pytest.approx(2 * 1 / (5 + 1))
    # |FIRST| 4, |SECOND| 2, |THIRD| 3; FIRST n SECOND 2, FIRST n THIRD 2, SECOND n THIRD 1
    assert relations.pairwise_dice(1) == pytest.approx((4 / 6 + 4 / 7 + 2 / 5) / 3)
    assert relations.relation_confidence(2) == relations.pairwise_dice(2) == 1
    assert relations.n == 3


def test_two_readings_give_their_dice() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 3, (2, 5, 7, 3))
    relations = relations_of(first, second)
    for k, value in enumerate(case_dice(first, second, 3).per_class, start=1):
        assert relations.relation_confidence(k) == pytest.approx(value)
        assert relations.pairwise_dice(k) == pytest.approx(value)
        assert relations.pair_dice(0, 1, k) == pytest.approx(value)


def test_masks_per_class_may_overlap() -> None:
    relations = Relations((2, 2), 3)
    relations.add(np.array([[[1, 1], [0, 0]], [[1, 0], [0, 1]]], bool), "union")
    relations.add(np.array([[[1, 0], [1, 0]], [[1, 0], [0, 0]]], bool), "intersection")
    assert relations.possible(1).tolist() == [[True, True], [True, False]]
    assert relations.consensus(1).tolist() == relations.consensus(2).tolist() == [[True, False], [False, False]]
    assert relations.pair_dice(0, 1, 1) == relations.relation_confidence(1) == 2 * 1 / (2 + 2)
    assert relations.pair_dice(0, 1, 2) == relations.relation_confidence(2) == 2 * 1 / (2 + 1)
    assert relations.reading(0).tolist() == [[2, 1], [0, 2]]


def test_ids_and_masks_of_one_reading_are_the_same() -> None:
    relations = Relations(FIRST.shape, 3)
    relations.add(FIRST)
    relations.add(np.stack([FIRST == 1, FIRST == 2]))
    assert relations.relation_confidence(1) == relations.relation_confidence(2) == 1
    single = Relations((3,), 2)
    single.add(np.array([True, False, True]))  # ids 0 and 1
    single.add(np.array([[True, False, True]]))
    assert single.pairwise_dice(1) == 1


@pytest.mark.parametrize("masks", [np.zeros((3, 2, 3), bool), np.zeros((2, 2, 3), np.uint8)])
def test_masks_of_other_classes_or_types_are_refused(masks: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"shape \(2, 3\) of its case"):
        Relations((2, 3), 3).add(masks)


def test_packed_equals_plain_arrays() -> None:
    masks = np.random.default_rng(1).integers(0, 2, (5, 3, 5, 7))
    relations = relations_of(*masks, classes=2)
    possible, consensus = (masks == 1).any(0), (masks == 1).all(0)
    np.testing.assert_array_equal(relations.possible(1), possible)
    np.testing.assert_array_equal(relations.consensus(1), consensus)
    expected = 2 * consensus.sum() / (possible.sum() + consensus.sum())
    assert relations.relation_confidence(1) == pytest.approx(expected)


def test_readings_come_back() -> None:
    relations = relations_of(FIRST, SECOND)
    np.testing.assert_array_equal(relations.reading(0), FIRST)
    np.testing.assert_array_equal(relations.reading(1), SECOND)
    assert relations.names == ["0", "1"]


def test_first_intersection_does_not_change_the_first_mask() -> None:
    relations = relations_of(FIRST, np.zeros_like(FIRST))
    np.testing.assert_array_equal(relations.reading(0), FIRST)


def test_class_in_no_reading_is_not_defined() -> None:
    relations = relations_of(FIRST, SECOND, classes=4)
    assert relations.relation_confidence(3) is None
    assert relations.pairwise_dice(3) is None
    assert relations.pair_dice(0, 1, 3) is None
    assert relations.empty(3) and not relations.empty()


def test_all_empty() -> None:
    relations = relations_of(*[np.zeros((2, 2), np.uint8)] * 3)
    assert relations.empty()
    assert relations.relation_confidence(1) is None
    assert not relations.possible(1).any()


def test_one_empty_reading_is_full_disagreement() -> None:
    relations = relations_of(FIRST, np.zeros_like(FIRST), np.zeros_like(FIRST))
    assert relations.relation_confidence(1) == 0
    assert relations.pairwise_dice(1) == pytest.approx(1 / 3)  # the pair of empty ones agrees


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_readings_say_nothing(count: int) -> None:
    relations = Relations(FIRST.shape, 3)
    for _ in range(count):
        relations.add(FIRST)
    assert relations.relation_confidence(1) is None
    assert relations.pairwise_dice(1) is None


def test_readings_that_do_not_fit_are_refused() -> None:
    relations = Relations((2, 3), 2)
    with pytest.raises(UserError, match=r"shape \(2, 3\) of its case, but got \(3, 2\)"):
        relations.add(np.zeros((3, 2), np.uint8))
    with pytest.raises(UserError, match=r"ids in 0\.\.1, but got 0\.\.2"):
        relations.add(FIRST)


def test_memory_grows_by_one_bit_per_voxel_and_class() -> None:
    shape = (64, 64, 64)
    mask = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    relations = Relations(shape, 2)
    relations.add(mask)
    tracemalloc.start()
    for _ in range(10):
        relations.add(mask)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.2 * 11 * mask.size / 8
