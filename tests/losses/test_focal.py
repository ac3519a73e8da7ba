import math

import pytest
import torch

from overread.losses import focal_loss


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        (0.5, 1.0, 0.25 * 0.25 * math.log(2)),
        (0.5, 0.0, 0.75 * 0.25 * math.log(2)),
        (0.9, 1.0, 0.25 * 0.01 * -math.log(0.9)),
        (0.9, 0.0, 0.75 * 0.81 * -math.log(0.1)),
        (0.5, 0.5, 0.5 * 0.25 * math.log(2)),  # half of each case: (0.25 + 0.75) / 2
    ],
)
def test_by_hand(p, y, expected):
    assert focal_loss(torch.tensor([[[logit(p)]]]), torch.tensor([[[y]]])).tolist() == pytest.approx([expected])


def test_without_focus_it_is_half_the_binary_cross_entropy():
    z = torch.tensor([[[1.0, -2.0]], [[0.3, 4.0]]])
    y = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none").mean((1, 2)) / 2
    torch.testing.assert_close(focal_loss(z, y, alpha=0.5, gamma=0.0), expected)


def test_huge_logits_stay_finite():
    z = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    focal_loss(z, torch.tensor([[[0.0, 1.0]]])).sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()
