import pytest
import torch

from overread.architectures.blocks import (
    ConvUnit,
    DoubleConv,
    LinearUp,
    check_input,
    convolution,
    initialise_he,
    max_pool,
    transposed_up,
    upsample,
)
from overread.errors import UserError


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_in_two_and_three_dimensions(dims):
    x = torch.zeros(2, 6, *[4] * dims)
    assert DoubleConv(dims, 6, 5)(x).shape == (2, 5, *[4] * dims)
    assert ConvUnit(dims, 6, 5, "instance")(x).shape == (2, 5, *[4] * dims)
    assert transposed_up(dims, 6, 3)(x).shape == (2, 3, *[8] * dims)
    assert LinearUp(dims, 6, 3)(x).shape == (2, 3, *[8] * dims)
    assert max_pool(x).shape == (2, 6, *[2] * dims)


def test_upsample_by_hand():
    x = torch.tensor([[[[0.0, 3.0]]]])
    assert upsample(x, align_corners=True)[0, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert upsample(x)[0, 0, 0].tolist() == [0.0, 0.75, 2.25, 3.0]


def test_max_pool_keeps_the_largest():
    assert max_pool(torch.arange(16.0).reshape(1, 1, 4, 4), 4).item() == 15.0


def test_he_draws_the_variance_of_the_fan_in_and_no_bias():
    layer = convolution(2, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initialise_he(layer)
    assert layer.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)
    assert layer.bias.abs().max().item() == 0


def test_check_input_says_what_to_pad_to():
    check_input(torch.zeros(1, 1, 16, 32), name="Net", in_channels=1, spatial_dims=2, size_multiple=16)
    with pytest.raises(UserError, match=r"multiples of 16, but got \(17, 32\): pad to \(32, 32\)"):
        check_input(torch.zeros(1, 1, 17, 32), name="Net", in_channels=1, spatial_dims=2, size_multiple=16)
    with pytest.raises(UserError, match=r"takes \(batch, 3, 2 spatial axes\)"):
        check_input(torch.zeros(1, 1, 16, 16), name="Net", in_channels=3, spatial_dims=2, size_multiple=16)
