import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.instances import (
    THRESHOLDS,
    InstanceScores,
    aggregated_jaccard,
    average_precision,
    best_overlaps,
    count_overlaps,
    instance_scores,
    ranked_average_precision,
    threshold_precision,
)

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5, 5]])
# id 1: 3 of 4 pixels of object 1 (IoU 3/4); id 2: 1 of 2 of object 2 and one beside it (1/3); id 3: object 5 exactly;
# id 4: a pixel of nothing
FOUND = np.array([[1, 1, 1, 0, 4, 0, 2, 2, 3, 3]])
NOTHING = np.zeros_like(TRUTH)


def image(scores=(0.9, 0.8, 0.7, 0.95)):
    return count_overlaps(FOUND, TRUTH, scores)


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
    assert average_precision([image()]) == pytest.approx(1 / 3)
    # ranked: hit (1), miss, hit (2/3), miss
    assert average_precision([image((0.9, 0.8, 0.7, 0.1))]) == pytest.approx((1 + 2 / 3) / 3)


def test_the_precision_at_a_recall_is_the_best_further_on():
    # ranked: miss, hit, hit of 2 objects: precision 1/2 and then 2/3, which counts for both
    overlaps = count_overlaps(np.array([1, 2, 3]), np.array([0, 1, 2]), [0.9, 0.8, 0.7])
    assert average_precision([overlaps]) == pytest.approx(2 / 3)


def test_the_ranking_is_over_all_images():
    good = count_overlaps(np.array([1]), np.array([1]), [0.6])
    bad = count_overlaps(np.array([1]), np.array([0]), [0.7])
    assert average_precision([good]) == 1
    assert average_precision([good, bad]) == average_precision([bad, good]) == pytest.approx(1 / 2)


def test_aggregated_jaccard_by_hand():
    # 1: 3/4; 2: 1/3; 5: 2/2; the fourth prediction, of one pixel, is not taken
    assert aggregated_jaccard(image()) == pytest.approx((3 + 1 + 2) / (4 + 3 + 2 + 1))


def test_aggregated_jaccard_of_a_missed_object_and_of_one_prediction_over_two():
    truth = np.array([1, 1, 2, 2, 3])
    # both objects take the same prediction: 2/4 each; the third adds its pixel to the union
    assert aggregated_jaccard(count_overlaps(np.array([1, 1, 1, 1, 0]), truth)) == pytest.approx((2 + 2) / (4 + 4 + 1))


@pytest.mark.parametrize("metric", [threshold_precision, aggregated_jaccard, lambda i: average_precision([i])])
def test_both_empty_one_and_one_empty_zero(metric):
    assert metric(count_overlaps(NOTHING, NOTHING)) == 1
    assert metric(count_overlaps(FOUND, NOTHING)) == 0
    assert metric(count_overlaps(NOTHING, TRUTH)) == 0
    assert metric(count_overlaps(TRUTH, TRUTH)) == 1


def test_the_record_has_all_metrics_and_every_n():
    scores = instance_scores([image((0.9, 0.8, 0.7, 0.1)), count_overlaps(NOTHING, NOTHING)])
    assert (scores.images, scores.objects, scores.predictions) == (2, 3, 4)
    assert scores.ap50 == scores.ap["0.5"] == pytest.approx(5 / 9)
    # hits at 0.5 to 0.75: both; above: only the last of the three before the miss
    assert scores.mean_ap == pytest.approx((6 * 5 / 9 + 4 * (1 / 3) / 3) / 10)
    assert (scores.precision50.mean, scores.precision50.n) == (pytest.approx((2 / 5 + 1) / 2), 2)
    assert (scores.aji.mean, scores.aji.n) == (pytest.approx((6 / 10 + 1) / 2), 2)
    assert InstanceScores.from_json(scores.to_json()) == scores


def test_no_images_have_nothing_to_find():
    scores = instance_scores([])
    assert (scores.ap50, scores.images, scores.aji.mean) == (1.0, 0, None)


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


def test_scores_and_best_overlaps_are_all_that_average_precision_needs():
    overlaps = image()
    best = best_overlaps(overlaps)
    np.testing.assert_allclose(best, [0, 3 / 4, 1 / 3, 1])
    for threshold in (0.5, 0.8):
        expected = average_precision([overlaps], threshold)
        assert ranked_average_precision(overlaps.scores, best >= threshold, 3) == expected
    # ranked: miss, hit (precision 1/2), miss, hit (2/4): two of three objects at precision 1/2
    assert ranked_average_precision(overlaps.scores, best >= 0.5, 3) == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert best_overlaps(count_overlaps(FOUND, NOTHING)).tolist() == [0, 0, 0, 0]
