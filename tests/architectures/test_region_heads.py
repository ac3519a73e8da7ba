import math

import pytest
import torch
from torch import tensor

from overread.architectures.instance_masks import Truth
from overread.architectures.region_heads import BoxHead, MaskHead, RegionSample, ScoredBoxes

MAP = torch.full((8, 8), -1)
MAP[0:4, 0:4] = 0
MAP[4:8, 6:8] = 1
TRUTH = Truth(tensor([[0.0, 0, 4, 4], [6, 4, 8, 8]]), tensor([[0, 0.75, 0.25], [0, 0, 1.0]]), MAP)
PROPOSALS = tensor([[0.0, 0, 4, 3], [0, 0, 1, 4], [5, 0, 8, 3]])  # IoU 3/4 with the first, 1/4, none


def sample(samples=100, random=False):
    return RegionSample.draw(PROPOSALS, TRUTH, samples, random=random)


def test_the_true_boxes_are_among_the_regions():
    drawn = sample()
    assert drawn.boxes.tolist() == [*PROPOSALS.tolist(), *TRUTH.boxes.tolist()]
    assert drawn.matched.tolist() == [0, -1, -1, 0, 1]
    assert drawn.objects.tolist() == [0, 3, 4]
    assert drawn.classes.tolist() == [1, 1, 2]
    assert drawn.weights.tolist() == [1] * 5


def test_a_quarter_of_the_drawn_are_objects():
    torch.manual_seed(0)
    drawn = [sample(4, random=True) for _ in range(20)]
    assert {len(d.objects) for d in drawn} == {1}
    assert {len(d.boxes) for d in drawn} == {3}  # there are two of background only
    assert len({tuple(d.boxes[d.objects[0]].tolist()) for d in drawn}) == 3
    torch.testing.assert_close(sample(4).weights, tensor([1 / 3, 1, 1, 1 / 3, 1 / 3]))


def test_class_loss_by_hand():
    logits = tensor([[0.0, 2, 1], [3, 0, 0], [0, 0, 0], [0, 2, 1], [1, 1, 5]])
    log = logits.log_softmax(1)
    expected = -(2 * (0.75 * log[0, 1] + 0.25 * log[0, 2]) + log[1, 0] + log[2, 0] + log[4, 2]) / 5
    torch.testing.assert_close(sample().class_loss(logits), expected)


def test_box_loss_by_hand():
    deltas = torch.full((5, 2, 4), 9.0)  # of other classes and of background: not in the loss
    deltas[3, 0] = deltas[4, 1] = 0  # right: these regions are the true boxes
    deltas[0, 0] = 0
    # the first region is 3 of 4 high and its centre 1/2 too high: 10 / 6 and 5 log(4/3), both linear
    expected = (10 / 6 + 5 * math.log(4 / 3) - 1 / 9) / 5
    assert sample().box_loss(deltas).item() == pytest.approx(expected, rel=1e-5)


def test_mask_loss_by_hand():
    logits = torch.zeros(3, 2, 4, 4)
    logits[0, 0] = logits[1, 0] = 100  # the true box and the region in it are filled by the instance
    logits[2, 0] = -100  # another class than that of the second instance
    assert sample().mask_loss(logits).item() == pytest.approx(math.log(2) / 3)
    drawn = sample(4)  # weights 1/3 each
    assert drawn.mask_loss(logits).item() == pytest.approx(math.log(2) / 3)


def test_without_objects_there_is_background_to_learn():
    truth = Truth(torch.zeros(0, 4), torch.zeros(0, 3), torch.full((8, 8), -1))
    drawn = RegionSample.draw(PROPOSALS, truth, 100, random=True)
    logits = torch.zeros(3, 3, requires_grad=True)
    assert drawn.class_loss(logits).item() == pytest.approx(math.log(3))
    deltas, masks = torch.zeros(3, 2, 4, requires_grad=True), torch.zeros(0, 2, 4, 4, requires_grad=True)
    losses = drawn.box_loss(deltas), drawn.mask_loss(masks)
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert deltas.grad.abs().sum() == 0


def find(logits, deltas=None, **changes):
    settings = {"score_threshold": 0.3, "candidates": 100, "overlap": 0.5, "detections": 100}
    boxes = tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [6, 6, 8, 8]])
    moves = torch.zeros(3, 2, 4) if deltas is None else deltas
    return ScoredBoxes.find(boxes, tensor(logits).log(), moves, (8, 8), **(settings | changes))


def test_detections_by_hand():
    shares = [[0.1, 0.5, 0.4], [0.2, 0.6, 0.2], [0.9, 0.05, 0.05]]
    found = find(shares)
    # of class 1 the second box fells the first; in class 2 the first is alone; the third is background
    assert found.boxes.tolist() == [[0, 0, 4, 5], [0, 0, 4, 4]]
    assert found.classes.tolist() == [1, 2]
    torch.testing.assert_close(found.scores, tensor([0.6, 0.4]))
    assert find(shares, overlap=0.9).scores.tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert find(shares, overlap=0.9, detections=2).scores.tolist() == pytest.approx([0.6, 0.5])
    assert find(shares, overlap=0.9, candidates=1).scores.tolist() == pytest.approx([0.6])
    assert find(shares, score_threshold=0.7).boxes.shape == (0, 4)


def test_each_class_moves_the_box_its_own_way_and_slivers_are_dropped():
    deltas = torch.zeros(3, 2, 4)
    deltas[2, 1] = tensor([-10.0, 0, 5 * math.log(2), 0])  # centre (7, 7) to (5, 7), 4 wide
    deltas[2, 0] = tensor([0.0, 0, 0, 5 * math.log(0.4)])  # 0.8 high
    shares = [[0.98, 0.01, 0.01], [0.98, 0.01, 0.01], [0.2, 0.4, 0.4]]
    found = find(shares, deltas)
    assert found.classes.tolist() == [2]
    torch.testing.assert_close(found.boxes, tensor([[3.0, 6, 7, 8]]))


def test_heads_have_the_published_layers_and_take_no_regions_too():
    box, mask = BoxHead(4, 6, 3), MaskHead(4, 3)
    assert sum(p.numel() for p in box.parameters()) == (4 * 49 + 1) * 6 + 7 * 6 + 7 * 3 + 7 * 8
    assert sum(p.numel() for p in mask.parameters()) == 4 * (4 * 4 * 9 + 4) + (4 * 4 * 4 + 4) + (4 * 2 + 2)
    for count in (0, 5):
        classes, deltas = box(torch.zeros(count, 4, 7, 7))
        assert (classes.shape, deltas.shape) == ((count, 3), (count, 2, 4))
        assert mask(torch.zeros(count, 4, 14, 14)).shape == (count, 2, 28, 28)


def test_the_box_head_starts_undecided_and_at_its_regions():
    torch.manual_seed(0)
    classes, deltas = BoxHead(8, 32, 3)(torch.randn(20, 8, 7, 7))
    assert classes.softmax(1).sub(1 / 3).abs().max() < 0.1
    assert deltas.abs().max() < 0.05
