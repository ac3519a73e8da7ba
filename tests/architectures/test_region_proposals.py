import math

import pytest
import torch
from torch import tensor

from overread.architectures.region_proposals import RegionProposals, Regions

LEVELS = (tensor([[0.0, 0, 4, 4], [8, 0, 12, 4], [8, 1, 12, 5]]), tensor([[0.0, 0, 16, 16]]))


def regions(logits=(0.0, 0.0, 0.0, 0.0), deltas=None, images=1):
    moves = torch.zeros(4, 4) if deltas is None else tensor(deltas)
    return Regions(LEVELS, tensor(logits).expand(images, 4), moves.expand(images, 4, 4))


def propose(found, **changes):
    settings = {"candidates": 10, "proposals": 10, "overlap": 0.5}
    return [boxes.tolist() for boxes in found.propose((16, 16), **(settings | changes))]


def test_the_best_of_every_level_are_thinned_there_and_ranked_together():
    found = regions((1.0, 2.0, 3.0, 1.5))
    first, second, third, large = (box for level in LEVELS for box in level.tolist())
    assert propose(found) == [[third, large, first]]  # the second and the third overlap by 12 / 20
    assert propose(found, overlap=0.6) == [[third, second, large, first]]
    assert propose(found, candidates=1) == [[third, large]]  # of each level
    assert propose(found, proposals=2) == [[third, large]]


def test_anchors_move_by_their_deltas_and_stay_in_the_image():
    still = [0.0] * 4
    found = regions((5.0, 0, 0, 0), [[0.5, -0.5, math.log(2), 0], still, still, still])
    # centre (2, 2) to (4, 0), 8 wide: x 0..8, y -2..2
    torch.testing.assert_close(tensor(propose(found)[0][0]), tensor([0.0, 0, 8, 2]))


def test_a_box_that_leaves_the_image_is_no_proposal():
    still = [0.0] * 4
    out = [-2.0, 0.0, 0.0, 0.0]  # two sides to the left: x -8..-4
    found = regions((5.0, 2, 0, 1), [out, still, still, still])
    _, second, _, large = (box for level in LEVELS for box in level.tolist())
    assert propose(found) == [[second, large]]
    nothing = regions(deltas=[out, [-5.0, 0.0, 0.0, 0.0], [-5.0, 0.0, 0.0, 0.0], out])
    assert propose(nothing) == [[]]


def test_losses_by_hand():
    # The truth is the first anchor, moved by a quarter of its side; the others are background.
    # IoU: 12 / 20 < 0.7, but it is the best.
    truth = tensor([[1.0, 0, 5, 4]])
    objectness, boxes = regions((2.0, 0.0, -1.0, 0.0)).losses([truth], samples=100, random=False)
    entropies = [math.log1p(math.exp(z)) for z in (-2, 0, -1, 0)]
    assert objectness.item() == pytest.approx(sum(entropies) / 4)
    assert boxes.item() == pytest.approx((0.25 - 0.5 / 9) / 4)


def test_a_small_error_counts_by_its_square():
    deltas = [[0.25 - 0.1, 0.0, 0.0, 0.0], *[[9.0] * 4] * 3]
    _, boxes = regions(deltas=deltas).losses([tensor([[1.0, 0, 5, 4]])], samples=100, random=False)
    assert boxes.item() == pytest.approx(0.5 * 0.1**2 * 9 / 4)


def test_an_image_without_objects_has_background_only():
    found = regions((2.0, 2.0, 2.0, 2.0), images=2)
    empty = torch.zeros(0, 4)
    objectness, boxes = found.losses([empty, empty], samples=100, random=True)
    assert (objectness.item(), boxes.item()) == (pytest.approx(math.log1p(math.exp(2))), 0)


def test_images_count_alike():
    empty, truth = torch.zeros(0, 4), LEVELS[1]
    alone = [regions((3.0, 1, 2, 1)).losses([t], samples=2, random=False)[0] for t in (empty, truth)]
    together, _ = regions((3.0, 1, 2, 1), images=2).losses([empty, truth], samples=2, random=False)
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


def test_in_evaluation_the_loss_is_the_mean_over_draws():
    torch.manual_seed(0)
    found, truth = regions((3.0, 1.0, 2.0, -1.0)), [LEVELS[0][:1]]
    draws = torch.stack([found.losses(truth, samples=2, random=True)[0] for _ in range(500)])
    assert draws.std() > 0.1
    torch.testing.assert_close(draws.mean(), found.losses(truth, samples=2, random=False)[0], atol=0.05, rtol=0)


@torch.no_grad()
def test_the_head_pairs_every_anchor_with_its_own_outputs():
    head = RegionProposals(2, sides=(4, 8), ratios=(1.0, 2.0, 0.5), strides=(2, 4))
    maps = [torch.randn(2, 2, 3, 4), torch.randn(2, 2, 1, 2)]
    found = head(maps)
    assert [tuple(level.shape) for level in found.anchors] == [(36, 4), (6, 4)]
    assert found.objectness.shape == (2, 42)
    assert found.deltas.shape == (2, 42, 4)
    row, column, ratio, image = 1, 2, 2, 1
    place = (row * 4 + column) * 3 + ratio
    shared = head.shared(maps[0]).relu()
    assert found.objectness[image, place] == head.objectness(shared)[image, ratio, row, column]
    assert torch.equal(found.deltas[image, place], head.deltas(shared)[image, 4 * ratio : 4 * ratio + 4, row, column])
    centre = found.anchors[0][place].reshape(2, 2).mean(0)
    assert centre.tolist() == [5, 3]


def test_the_head_starts_undecided_and_at_its_anchors():
    torch.manual_seed(0)
    head = RegionProposals(16, sides=(4,), ratios=(1.0,), strides=(4,))
    found = head([torch.randn(1, 16, 16, 16)])
    assert found.objectness.abs().max() < 0.5
    assert found.deltas.abs().max() < 0.5
