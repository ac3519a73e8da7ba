import math

import pytest
import torch

from overread.losses import cross_entropy


def test_equal_logits_cost_the_entropy_of_a_coin():
    logits = torch.zeros(1, 2, 1, 2)
    targets = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]])
    assert cross_entropy(logits, targets).tolist() == pytest.approx([math.log(2)])


def test_soft_targets_by_hand():
    # log softmax of (ln 3, 0) is (ln 3/4, ln 1/4); the target 3/4, 1/4 gives the entropy of that coin
    logits = torch.tensor([math.log(3), 0.0]).reshape(1, 2, 1)
    targets = torch.tensor([0.75, 0.25]).reshape(1, 2, 1)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert cross_entropy(logits, targets).item() == pytest.approx(expected)


def test_one_value_per_sample():
    logits = torch.tensor([[[0.0], [0.0]], [[50.0], [0.0]]])
    targets = torch.tensor([[[1.0], [0.0]], [[1.0], [0.0]]])
    assert cross_entropy(logits, targets).tolist() == pytest.approx([math.log(2), 0.0])
