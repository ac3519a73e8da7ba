import math

import pytest
import torch
import torch.nn.functional as F

from overread.architectures.gabor import GaborConv, gabor_bank


def test_a_filter_by_hand():
    # kappa = pi / 2, sigma = pi: the envelope is exp(-(x^2 + y^2) / 8) and the wave along x has period 4: 1 at the
    # middle, 0 a pixel to the side. Its mean c is taken off.
    c = math.exp(-(math.pi**2) / 2)
    middle, above, side, corner = 1 - c, math.exp(-1 / 8) * (1 - c), -math.exp(-1 / 8) * c, -math.exp(-2 / 8) * c
    rows = [[corner, above, corner], [side, middle, side], [corner, above, corner]]
    expected = (torch.tensor(rows) - side) / (middle - side)
    bank = gabor_bank(4, 3)
    torch.testing.assert_close(bank[0], expected)
    torch.testing.assert_close(bank[2], expected.T)  # turned by 90 degrees


def test_the_bank_has_four_orientations_in_the_unit_interval():
    bank = gabor_bank(4, 3)
    assert bank.shape == (4, 3, 3)
    assert bank.amin((1, 2)).tolist() == [0.0] * 4
    assert bank.amax((1, 2)).tolist() == [1.0] * 4
    assert bank[:, 1, 1].tolist() == [1.0] * 4
    torch.testing.assert_close(bank[3], bank[1].flip(1))  # 135 degrees mirror 45
    assert torch.cdist(bank.flatten(1), bank.flatten(1)).triu(1).count_nonzero() == 6


def test_a_filter_of_one_pixel_has_no_effect():
    assert gabor_bank(4, 1).tolist() == [[[1.0]]] * 4


@pytest.mark.parametrize(("channels", "orientations"), [(8, 4), (6, 2), (3, 1)])
def test_it_is_the_published_convolution_of_repeated_channels(channels, orientations):
    layer = GaborConv(channels)
    assert layer.orientations == orientations
    x = torch.randn(2, channels, 7, 5, generator=torch.Generator().manual_seed(0))
    kernels = channels // orientations
    weight = torch.zeros(channels, channels * orientations, 3, 3)
    for o in range(kernels):
        for i in range(orientations):
            weight[o * orientations + i] = layer.weight[o].detach() * layer.bank[i]
    expected = F.conv2d(x.repeat_interleave(orientations, 1), weight, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_parameters_of_the_published_branch():
    assert GaborConv(32).weight.numel() == 8 * 32 * 4 * 9
    assert GaborConv(32, kernel=1).weight.numel() == 8 * 32 * 4


def test_orientations_of_one_pixel_are_copies():
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    found = GaborConv(8, kernel=1)(x).unflatten(1, (2, 4))
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found))
    assert not torch.allclose(found[:, 0], found[:, 1])
