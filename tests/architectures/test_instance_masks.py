import pytest
import torch
from torch import Tensor, tensor

from overread.architectures.instance_masks import CHUNK, Detections, Truth, find_truths, mask_targets, paste

IDS = tensor([[0, 7, 7, 0], [0, 7, 0, 3], [0, 0, 0, 3]])


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).permute(2, 0, 1).float()


def test_instances_by_hand():
    (truth,) = find_truths(IDS[None].int(), one_hot((IDS > 0).long() + (IDS == 3), 3)[None])
    assert truth.boxes.tolist() == [[3, 1, 4, 3], [1, 0, 3, 2]]
    assert truth.shares.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert truth.classes.tolist() == [2, 1]
    assert truth.map.tolist() == [[-1, 1, 1, -1], [-1, 1, -1, 0], [-1, -1, -1, 0]]


def test_a_divided_label_divides_the_class():
    soft = torch.zeros(3, 3, 4)
    soft[:, IDS == 7] = tensor([0.2, 0.6, 0.2])[:, None]
    soft[2, IDS == 3] = 1
    (truth,) = find_truths(IDS[None], soft[None])
    torch.testing.assert_close(truth.shares, tensor([[0.0, 0, 1], [0, 0.75, 0.25]]))


def test_what_is_mostly_background_is_no_object_unless_there_is_one_class():
    labels = one_hot((IDS == 3).long(), 3)
    (truth,) = find_truths(IDS[None], labels[None])
    assert truth.boxes.tolist() == [[3, 1, 4, 3]]
    assert truth.map.tolist() == [[-1, -1, -1, -1], [-1, -1, -1, 0], [-1, -1, -1, 0]]
    (truth,) = find_truths(IDS[None], labels[None, :2] * 0)
    assert truth.shares.tolist() == [[0, 1], [0, 1]]


def test_an_image_without_instances():
    (truth,) = find_truths(torch.zeros(1, 2, 3).int(), torch.zeros(1, 4, 2, 3))
    assert truth.boxes.shape == (0, 4)
    assert truth.shares.shape == (0, 4)
    assert truth.map.tolist() == [[-1] * 3] * 2


def test_an_image_that_is_one_instance():
    (truth,) = find_truths(torch.full((1, 2, 3), 9), one_hot(torch.ones(2, 3).long(), 2)[None])
    assert truth.boxes.tolist() == [[0, 0, 3, 2]]
    assert truth.map.unique().tolist() == [0]


def test_mask_targets_by_hand():
    truth = Truth(torch.zeros(2, 4), torch.zeros(2, 2), tensor([[-1, 0, 0, -1], [-1, 0, 1, 1]]))
    boxes = tensor([[0.0, 0, 4, 2], [1, 0, 3, 2], [0, 0, 4, 2]])
    targets = mask_targets(truth, tensor([0, 0, 1]), boxes, 2)
    # the first: cells of 2 x 1 pixels, sampled twice in each of both; the second: cells are pixels
    assert targets.tolist() == [[[0.5, 0.5], [0.5, 0]], [[1, 1], [1, 0]], [[0, 0], [0, 1]]]
    assert mask_targets(truth, tensor([], dtype=torch.long), boxes[:0], 2).shape == (0, 2, 2)


def test_pasting_by_hand():
    masks, boxes = tensor([[[0.0, 1.0], [0.0, 1.0]]]), tensor([[1.0, 1, 5, 3]])
    # cells of 2 x 1 pixels: centres at x = 2 and 4, pixels at 1.5, 2.5, 3.5, 4.5
    row = [0, 0, 0.25, 0.75, 1, 0]
    assert paste(masks, boxes, (4, 6))[0].tolist() == [[0] * 6, row, row, [0] * 6]
    with torch.autocast("cpu", torch.bfloat16):
        assert paste(masks, boxes, (4, 6)).dtype == torch.float32


def test_what_is_pasted_is_what_was_cut():
    truth = Truth(torch.zeros(1, 4), torch.zeros(1, 2), (torch.rand(8, 8) > 0.5).long() - 1)
    whole = tensor([[0.0, 0, 8, 8]])
    assert torch.equal(paste(mask_targets(truth, tensor([0]), whole, 8), whole, (8, 8))[0], (truth.map == 0).float())


def detections(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    """Return detections whose masks fill their boxes."""
    return Detections(tensor(boxes), tensor(scores), tensor(classes), torch.ones(len(boxes), 4, 4))


def test_foreground_is_the_best_score_of_each_class():
    found = detections([[0.0, 0, 2, 1], [1, 0, 3, 1], [1, 0, 4, 1]], [0.9, 0.8, 0.7], [1, 1, 2])
    torch.testing.assert_close(
        found.foreground((1, 5), 4), tensor([[[0.9, 0.9, 0.8, 0, 0]], [[0, 0.7, 0.7, 0.7, 0]], [[0] * 5]])
    )
    assert torch.equal(detections([], [], []).foreground((2, 3), 3), torch.zeros(2, 2, 3))


def test_the_better_instance_has_the_pixels_that_both_want():
    found = detections([[0.0, 0, 2, 1], [1, 0, 4, 1]], [0.9, 0.8], [1, 2]).instances((1, 5), 0.5)
    assert found.ids.dtype == torch.int32
    assert found.ids.tolist() == [[1, 1, 2, 2, 0]]
    assert found.classes.tolist() == [1, 2]


def test_what_is_mostly_hidden_is_dropped_and_the_rest_numbered_anew():
    boxes = [[0.0, 0, 3, 1], [0, 0, 4, 1], [4, 0, 5, 1]]  # of the second a quarter is visible
    found = detections(boxes, [0.9, 0.8, 0.7], [1, 1, 2]).instances((1, 5), 0.5)
    assert found.ids.tolist() == [[1, 1, 1, 0, 2]]
    assert found.boxes.tolist() == [boxes[0], boxes[2]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.classes.tolist() == [1, 2]


def test_a_mask_without_a_pixel_above_the_threshold_is_no_instance():
    found = Detections(tensor([[0.0, 0, 2, 1]]), tensor([0.9]), tensor([1]), torch.full((1, 4, 4), 0.5))
    assert found.instances((1, 3), 0.5).ids.tolist() == [[0, 0, 0]]
    assert len(found.instances((1, 3), 0.5).scores) == 0
    assert len(found.instances((1, 3), 0.4).scores) == 1
    assert detections([], [], []).instances((2, 2), 0.5).ids.tolist() == [[0, 0], [0, 0]]


def test_more_detections_than_are_pasted_at_once():
    count = 2 * CHUNK + 3
    boxes = [[float(i), 0, i + 1, 1] for i in range(count)]
    found = detections(boxes, torch.linspace(0.9, 0.1, count).tolist(), [1] * count)
    assert found.instances((1, count), 0.5).ids.tolist() == [list(range(1, count + 1))]
    torch.testing.assert_close(found.foreground((1, count), 2)[0, 0], found.scores)
