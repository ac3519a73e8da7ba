import pytest
import torch

from overread.losses import dice_loss


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], 0.0),  # 1 - (2*2 + 1) / (2 + 2 + 1)
        ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0], 0.75),  # 1 - (0 + 1) / (1 + 2 + 1)
        ([0.5, 0.5, 0.0], [1.0, 0.0, 0.0], 1 / 3),  # 1 - (2*0.5 + 1) / (1 + 1 + 1)
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0),  # both empty
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 0.75),  # empty target: 3 / (3 + 1)
    ],
)
def test_by_hand(p, y, expected):
    assert dice_loss(torch.tensor([[p]]), torch.tensor([[y]])).tolist() == pytest.approx([expected])


def test_mean_over_maps_and_one_value_per_sample():
    p = torch.tensor([[[1.0], [0.0]], [[1.0], [1.0]]])  # 2 samples, 2 maps, 1 voxel
    y = torch.tensor([[[1.0], [1.0]], [[1.0], [1.0]]])
    assert dice_loss(p, y).tolist() == pytest.approx([(0 + 0.5) / 2, 0.0])


def test_smoothing_is_a_choice():
    assert dice_loss(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), smooth=3.0).item() == pytest.approx(1 - 3 / 4)


def test_squares_in_the_denominator_are_a_choice():
    p, y = torch.tensor([[[0.5, 0.5, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    # 1 - 2 * 0.5 / (1 + 0.5): sharp masks are better than in 1 - 2 * 0.5 / (1 + 1)
    assert dice_loss(p, y, 0.0, squared=True).tolist() == pytest.approx([1 / 3])
    assert dice_loss(p, y, 0.0).tolist() == pytest.approx([1 / 2])
    assert dice_loss(p, y, squared=True).tolist() == pytest.approx([1 - 2 / 2.5])
