import math

import pytest
import torch
from torch import Tensor, tensor

from overread.architectures.boxes import (
    IGNORED,
    NEGATIVE,
    anchors,
    areas,
    box_iou,
    clip,
    decode,
    encode,
    match,
    nms,
    pyramid_levels,
    roi_align,
    sampling_weights,
)

ONES = (1.0, 1.0, 1.0, 1.0)


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([low, low + torch.rand(count, 2, generator=generator) * 30], 1)


def test_areas_and_overlaps_by_hand():
    a = tensor([[0.0, 0, 2, 2], [0, 0, 4, 1], [1, 1, 1, 1]])
    b = tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    assert areas(a).tolist() == [4, 4, 0]
    assert areas(tensor([3.0, 3, 1, 4])) == 0
    torch.testing.assert_close(box_iou(a, b), tensor([[1 / 7, 1, 0], [0, 2 / 6, 0], [0, 0, 0]]))
    assert box_iou(a[2:], a[2:]).tolist() == [[0]]
    assert box_iou(a[:0], b).shape == (0, 3)


def test_a_coded_box_by_hand():
    reference, box = tensor([0.0, 0, 10, 20]), tensor([5.0, 5, 25, 15])  # centres (5, 10) and (15, 10)
    expected = tensor([1.0, 0, math.log(2), math.log(0.5)])
    torch.testing.assert_close(encode(box, reference, ONES), expected)
    torch.testing.assert_close(encode(box, reference, (10, 10, 5, 5)), expected * tensor([10.0, 10, 5, 5]))
    torch.testing.assert_close(decode(expected, reference, ONES), box)


def test_decoding_inverts_encoding_and_growth_is_bounded():
    boxes, references = random_boxes(20), random_boxes(20, seed=1) + tensor([0.0, 0, 5, 5])
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(decode(encode(boxes, references, weights), references, weights), boxes)
    grown = decode(tensor([0.0, 0, 1e9, 0]), tensor([-1.0, 0, 1, 2]), ONES)
    torch.testing.assert_close(grown, tensor([-62.5, 0, 62.5, 2]))


def test_boxes_are_cut_to_the_image():
    boxes = tensor([[-3.0, 2, 5, 99], [11, 12, 13, 14]])
    assert clip(boxes, (8, 10)).tolist() == [[0, 2, 5, 8], [10, 8, 10, 8]]


def test_suppression_by_hand():
    # IoU of A and B 1/2, of B and C 4/5, of A and C 1/3: A fells B, and so B cannot fell C
    boxes = tensor([[0.0, 0, 8, 1], [2, 0, 12, 1], [4, 0, 12, 1], [50, 0, 51, 1]])
    iou = box_iou(boxes, boxes)
    assert [round(iou[i, j].item(), 4) for i, j in ((0, 1), (1, 2), (0, 2))] == [0.5, 0.8, 0.3333]
    scores = tensor([0.9, 0.8, 0.7, 0.95])
    assert nms(boxes, scores, 0.4).tolist() == [3, 0, 2]
    assert nms(boxes, scores, 0.3).tolist() == [3, 0]
    assert nms(boxes, scores, 0.8).tolist() == [3, 0, 1, 2]  # only more than the threshold falls
    assert nms(boxes, scores, 0.4, tensor([1, 2, 2, 1])).tolist() == [3, 0, 1]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_of_equal_scores_the_first_stays():
    boxes = tensor([[0.0, 0, 2, 2]]).expand(5, 4)
    assert nms(boxes, torch.ones(5), 0.5).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_suppression_is_the_greedy_one(threshold):
    boxes, scores = random_boxes(300), torch.rand(300, generator=torch.Generator().manual_seed(2))
    iou, kept = box_iou(boxes, boxes), []
    for one in scores.argsort(descending=True).tolist():
        if all(iou[one, other] <= threshold for other in kept):
            kept.append(one)
    assert 10 < len(kept) < 250
    assert nms(boxes, scores, threshold).tolist() == kept


def test_anchors_by_hand():
    found = anchors((1, 2), stride=4, side=8, ratios=(1.0, 4.0))  # centres (2, 2) and (6, 2); 8 x 8 and 4 wide, 16 high
    assert found.tolist() == [[-2, -2, 6, 6], [0, -6, 4, 10], [2, -2, 10, 6], [4, -6, 8, 10]]
    assert anchors((2, 3), 4, 8, (0.5, 1, 2)).shape == (18, 4)
    torch.testing.assert_close(areas(anchors((2, 3), 4, 8, (0.5, 1, 2))), torch.full((18,), 64.0))


def test_matching_by_hand():
    overlap = tensor([[0.8, 0.5, 0.1, 0.0, 0.2], [0.7, 0.6, 0.2, 0.0, 0.29]])
    assert match(overlap, 0.3, 0.7).tolist() == [0, IGNORED, NEGATIVE, NEGATIVE, NEGATIVE]
    assert match(overlap, 0.5, 0.5).tolist() == [0, 1, NEGATIVE, NEGATIVE, NEGATIVE]
    low = tensor([[0.8, 0.0, 0.1], [0.0, 0.4, 0.2], [0.0, 0.0, 0.0]])
    assert match(low, 0.3, 0.7).tolist() == [0, IGNORED, NEGATIVE]
    assert match(low, 0.3, 0.7, best=True).tolist() == [0, 1, NEGATIVE]  # nothing is the best of what nothing overlaps
    assert match(overlap[:0], 0.3, 0.7, best=True).tolist() == [NEGATIVE] * 5


MATCHED = tensor([0, 2, 1, IGNORED, *[NEGATIVE] * 8])


def test_samples_are_balanced_and_drawn_anew():
    torch.manual_seed(0)
    draws = torch.stack([sampling_weights(MATCHED, 6, 0.34, random=True) for _ in range(400)])
    assert set(draws.flatten().tolist()) == {0.0, 1.0}
    assert set(draws[:, :3].sum(1).tolist()) == {2.0}
    assert set(draws[:, 4:].sum(1).tolist()) == {4.0}
    assert draws[:, 3].sum() == 0
    torch.testing.assert_close(draws.mean(0), sampling_weights(MATCHED, 6, 0.34, random=False), atol=0.08, rtol=0)


def test_without_chance_each_has_the_weight_of_its_chance():
    weights = sampling_weights(MATCHED, 6, 0.34, random=False)
    torch.testing.assert_close(weights, tensor([*[2 / 3] * 3, 0, *[0.5] * 8]))


@pytest.mark.parametrize("random", [True, False])
def test_too_few_to_draw_from_are_all_taken(random):
    assert sampling_weights(MATCHED, 100, 0.5, random=random).tolist() == [1.0] * 3 + [0.0] + [1.0] * 8
    assert sampling_weights(MATCHED[3:4], 4, 0.5, random=random).tolist() == [0.0]
    assert sampling_weights(MATCHED[4:], 4, 0.5, random=random).sum() == 4


def test_levels_are_those_of_the_published_anchors():
    sides = tensor([0.0, 1, 111, 113, 223, 225, 447, 449, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides * 2, sides / 2], 1)
    assert pyramid_levels(boxes, 4, 32).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert pyramid_levels(boxes / 4, 4, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def ramp(height: int, width: int, stride: int) -> Tensor:
    """Return (1, 2, h, w): the x and y of the centre of every pixel of a map, in pixels of the image."""
    x, y = ((torch.arange(side // stride) + 0.5) * stride for side in (width, height))
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])[None]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_pooled_cells_of_a_ramp_are_the_centres_of_the_cells(stride):
    box = tensor([[4.0, 6.5, 12, 9.5]])
    pooled = roi_align([ramp(16, 24, stride)], [box], [torch.zeros(1).long()], (16, 24), 2)
    assert pooled.shape == (1, 2, 2, 2)
    torch.testing.assert_close(pooled[0, 0], tensor([[6.0, 10], [6, 10]]))
    torch.testing.assert_close(pooled[0, 1], tensor([[7.25, 7.25], [8.75, 8.75]]))


def test_a_pooled_cell_is_the_mean_of_four_bilinear_samples():
    image = tensor([[[[0.0, 8], [16, 40]]]])
    # samples at x, y in {0.75, 1.25}: a quarter and three quarters of the way between the centres 0.5 and 1.5
    corners = [
        (1 - x) * (1 - y) * 0 + x * (1 - y) * 8 + (1 - x) * y * 16 + x * y * 40
        for x in (0.25, 0.75)
        for y in (0.25, 0.75)
    ]
    pooled = roi_align([image], [tensor([[0.5, 0.5, 1.5, 1.5]])], [torch.zeros(1).long()], (2, 2), 1)
    assert pooled.item() == pytest.approx(sum(corners) / 4) == pytest.approx(16)


def test_beyond_the_outermost_centres_a_map_is_constant():
    image = tensor([[[[1.0, 5]]]])
    pooled = roi_align([image], [tensor([[0.0, 0, 0.4, 1], [1.6, 0, 2, 1]])], [torch.zeros(2).long()], (1, 2), 1)
    assert pooled.flatten().tolist() == [1, 5]


def test_boxes_keep_their_order_over_levels_and_images():
    maps = [tensor([10.0, 20]).reshape(2, 1, 1, 1).expand(2, 1, 4 >> i, 4 >> i) + i for i in range(2)]
    boxes = [random_boxes(3), random_boxes(0), random_boxes(2)]
    maps = [torch.cat([m[:1], m[:1], m[1:]]) for m in maps]
    levels = [tensor([1, 0, 1]), tensor([]).long(), tensor([0, 1])]
    assert roi_align(maps, boxes, levels, (4, 4), 3)[:, 0, 0, 0].tolist() == [11, 10, 11, 20, 21]
    assert roi_align(maps, boxes[1:2], levels[1:2], (4, 4), 3).shape == (0, 1, 3, 3)


def test_pooling_has_the_right_gradient_and_computes_in_float32():
    image = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    boxes, levels = [tensor([[0.3, 0.2, 3.1, 2.7]])], [torch.zeros(1).long()]
    pooled = roi_align([image], boxes, levels, (3, 4), 2)
    assert pooled.dtype == torch.float32
    pooled.sum().backward()
    # each of the 2 x 2 cells takes weights that sum to 1 from each channel
    assert image.grad is not None
    assert image.grad.sum((0, 2, 3)).tolist() == pytest.approx([4, 4], rel=1e-2)
