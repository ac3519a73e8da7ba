import math

import torch

from overread.losses import binary_cross_entropy


def test_by_hand():
    logits = torch.tensor([[[math.log(3), 0.0]], [[-math.log(3), 0.0]]])  # p = 3/4, 1/2; 1/4, 1/2
    targets = torch.tensor([[[1.0, 0.5]], [[1.0, 0.0]]])
    expected = [(-math.log(3 / 4) + math.log(2)) / 2, (-math.log(1 / 4) + math.log(2)) / 2]
    torch.testing.assert_close(binary_cross_entropy(logits, targets), torch.tensor(expected))


def test_the_mean_over_annotators_is_the_loss_against_their_mean():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    masks = (torch.rand(5, 2, 3, 4, 4, generator=generator) < 0.5).float()
    each = torch.stack([binary_cross_entropy(logits, mask) for mask in masks])
    assert each.std(0).min() > 1e-3
    torch.testing.assert_close(each.mean(0), binary_cross_entropy(logits, masks.mean(0)))


def test_it_is_computed_in_float32():
    assert binary_cross_entropy(torch.zeros(1, 1, 4, dtype=torch.bfloat16), torch.ones(1, 1, 4)).dtype == torch.float32
