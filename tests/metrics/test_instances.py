import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.instances import (
    THRESHOLDS,
    Overlaps,
    aggregated_jaccard,
    average_precision,
    count_overlaps,
    threshold_precision,
)

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5, 5]])
# id 1: 3 of 4 pixels of object 1 (IoU 3/4); id 2: 1 of 2 of object 2 and one beside it (1/3); id 3: object 5 exactly;
# id 4: a pixel of nothing
FOUND = np.array([[1, 1, 1, 0, 4, 0, 2, 2, 3, 3]])
NOTHING = np.zeros_like(TRUTH)


def image(scores=(0.9, 0.8, 0.7, 0.95)):
    return count_overlaps(FOUND, TRUTH, scores)


def precision_of(*images: Overlaps, threshold: float = 0.5) -> float:
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([image.hits(threshold) for image in images])
    return average_precision(scores, hits, sum(len(image.true) for image in images))


def test_overlaps_by_hand_and_by_falling_score():
    overlaps = image()
    assert overlaps.scores.tolist() == [0.95, 0.9, 0.8, 0.7]
    assert overlaps.predicted.tolist() == [1, 3, 2, 2]
    assert overlaps.true.tolist() == [4, 2, 2]
    assert overlaps.common.tolist() == [[0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 2]]
    np.testing.assert_allclose(overlaps.iou, [[0, 0, 0], [3 / 4, 0, 0], [0, 1 / 3, 0], [0, 0, 1]])


def test_ids_need_not_be_dense_and_masks_need_no_background():
    overlaps = count_overlaps(np.full((2, 2), 7), np.array([[9, 9], [9, 3]]))
    assert overlaps.true.tolist() == [1, 3]
    assert overlaps.common.tolist() == [[1, 3]]


def test_hits_at_a_threshold():
    assert image().hits(0.5).tolist() == [False, True, False, True]
    assert image().hits(0.8).tolist() == [False, False, False, True]
    assert image().hits(0.3).tolist() == [False, True, True, True]


def test_an_iou_of_just_the_threshold_counts():
    assert count_overlaps(np.array([1, 1, 0]), np.array([1, 0, 0])).hits(0.5).tolist() == [True]


def test_below_one_half_the_better_prediction_takes_the_object_and_the_other_the_next():
    truth = np.array([1, 1, 1, 1, 2, 2])
    found = np.array([1, 1, 2, 2, 2, 1])  # IoU of id 1: 2/5 and 1/4; of id 2: 2/5 and 1/4
    assert count_overlaps(found, truth, [0.5, 0.6]).hits(0.25).tolist() == [True, True]
    assert count_overlaps(found, truth, [0.5, 0.6]).hits(0.4).tolist() == [True, False]


def test_precision_of_an_image_by_hand():
    assert threshold_precision(image(), 0.5) == pytest.approx(2 / (2 + 2 + 1))
    assert threshold_precision(image(), 0.3) == pytest.approx(3 / 4)


def test_average_precision_by_hand():
    # ranked: miss, hit, miss, hit; 3 objects. Precision at the hits 1/2 and 2/4: (1/2 + 1/2) / 3
    assert precision_of(image()) == pytest.approx(1 / 3)
    # ranked: hit (1), miss, hit (2/3), miss
    assert precision_of(image((0.9, 0.8, 0.7, 0.1))) == pytest.approx((1 + 2 / 3) / 3)


def test_the_precision_at_a_recall_is_the_best_further_on():
    # ranked: miss, hit, hit of 2 objects: precision 1/2 and then 2/3, which counts for both
    overlaps = count_overlaps(np.array([1, 2, 3]), np.array([0, 1, 2]), [0.9, 0.8, 0.7])
    assert precision_of(overlaps) == pytest.approx(2 / 3)


def test_the_ranking_is_over_all_images():
    good = count_overlaps(np.array([1]), np.array([1]), [0.6])
    bad = count_overlaps(np.array([1]), np.array([0]), [0.7])
    assert precision_of(good) == 1
    assert precision_of(good, bad) == precision_of(bad, good) == pytest.approx(1 / 2)


def test_aggregated_jaccard_by_hand():
    # 1: 3/4; 2: 1/3; 5: 2/2; the fourth prediction, of one pixel, is not taken
    assert aggregated_jaccard(image()) == pytest.approx((3 + 1 + 2) / (4 + 3 + 2 + 1))


def test_aggregated_jaccard_of_a_missed_object_and_of_one_prediction_over_two():
    truth = np.array([1, 1, 2, 2, 3])
    # both objects take the same prediction: 2/4 each; the third adds its pixel to the union
    assert aggregated_jaccard(count_overlaps(np.array([1, 1, 1, 1, 0]), truth)) == pytest.approx((2 + 2) / (4 + 4 + 1))


@pytest.mark.parametrize("metric", [threshold_precision, aggregated_jaccard, lambda i: precision_of(i)])
def test_both_empty_one_and_one_empty_zero(metric):
    assert metric(count_overlaps(NOTHING, NOTHING)) == 1
    assert metric(count_overlaps(FOUND, NOTHING)) == 0
    assert metric(count_overlaps(NOTHING, TRUTH)) == 0
    assert metric(count_overlaps(TRUTH, TRUTH)) == 1


def test_unsure_predictions_can_be_left_out():
    sure = image().scored(0.8)
    assert sure.scores.tolist() == [0.95, 0.9, 0.8]
    assert sure.common.tolist() == [[0, 0, 0], [3, 0, 0], [0, 1, 0]]
    assert sure.predicted.tolist() == [1, 3, 2]
    assert sure.true.tolist() == [4, 2, 2]


def test_each_half_of_an_object_has_an_iou_of_one_half_and_one_of_them_finds_it():
    halves = count_overlaps(np.array([1, 1, 2, 2]), np.array([3, 3, 3, 3]), [0.6, 0.9])
    assert halves.iou.tolist() == [[0.5], [0.5]]
    assert halves.hits(0.5).tolist() == [True, False]
    assert precision_of(halves) == 1
    assert threshold_precision(halves) == 1 / 2


def test_thresholds_are_exact():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize(
    ("prediction", "truth", "scores", "message"),
    [
        (np.zeros(3, int), np.zeros(4, int), None, "same shape"),
        (np.array([-1]), np.array([1]), None, "prediction must hold ids"),
        (np.array([1]), np.array([-2]), None, "truth must hold ids"),
        (np.array([0, 3]), np.array([0, 1]), [0.5, 0.5], "id 3 and 2 scores"),
    ],
)
def test_wrong_masks_are_refused(prediction, truth, scores, message):
    with pytest.raises(UserError, match=message):
        count_overlaps(prediction, truth, scores)
