# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.channel_unet import ChannelUNet, ChannelUNetOptions, SpatialChannelwise, TwoBranches
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class TestChannelUNet(ArchitectureContract):
    name = "channel_unet"
    options = {"width": 4, "depth": 3, "grid": 8}
    size = (16, 24)


class TestChannelUNetShallow(ArchitectureContract):
    name = "channel_unet"
    options = {"width": 8, "depth": 2, "grid": 4}
    losses = {"dice": 1.0}
    size = (8, 8)
    classes = 2


def test_parameters_of_all_blocks():
    def double(inputs: int, outputs: int) -> int:
        return 9 * (inputs + outputs) * outputs + 6 * outputs  # weights, and per layer a bias and two of the norm

    def block(inputs: int, outputs: int) -> int:
        half = outputs // 2
        return 2 * double(inputs, half) + (1024 + 1) * 1024 + 2 * half

    widths = [64, 128, 256, 512, 1024]
    down = sum(block(i, o) for i, o in zip([3, *widths], widths, strict=False))
    up = sum(block(2 * c, c) + 8 * c * c + c for c in widths[:-1])
    assert ARCHITECTURES["channel_unet"].published_parameters() == down + up + 2 * 65 == 32_640_898


def test_every_pixel_is_a_sum_of_all_the_same_for_every_channel():
    layer = SpatialChannelwise(2, grid=2).eval()
    with torch.no_grad():
        layer.kernels.weight.copy_(torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 2, 0], [-1, 0, 0, 0]]))
        layer.kernels.bias.copy_(torch.tensor([0.0, 0, 0, 3]))
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]).reshape(1, 2, 2, 2)
    # The last pixel; the sum of the upper two; twice the lower left; 3 - the first (cut off at 0).
    expected = torch.tensor([[4.0, 3, 6, 2], [8, 11, 14, 0]]).reshape(1, 2, 2, 2)
    torch.testing.assert_close(layer(x), expected, atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (8, 4), (12, 16)])
def test_maps_of_any_size_are_brought_to_the_grid_and_back(size):
    layer = SpatialChannelwise(3, grid=4).eval()
    layer.kernels.weight.copy_(torch.eye(16))
    x = torch.full((2, 3, *size), 2.0)
    torch.testing.assert_close(layer(x), x, atol=1e-3, rtol=0)
    x[:, :, : size[0] // 2] = 6.0
    found = layer(x)
    assert found.shape == x.shape
    assert found[:, :, 0].min() > found[:, :, -1].max() + 3


def test_a_change_anywhere_is_seen_everywhere():
    layer = SpatialChannelwise(1, grid=4).eval()
    with torch.no_grad():
        layer.kernels.weight.fill_(0.1)
    x = draw(1, 1, 8, 8).abs()
    other = x.clone()
    other[0, 0, 0, 0] += 8.0  # 2 in the mean of its cell, 0.2 in every sum
    torch.testing.assert_close(layer(other) - layer(x), torch.full_like(x, 0.2), atol=1e-4, rtol=0)


def test_a_block_is_two_branches_beside_each_other():
    block, x = TwoBranches(3, 8, grid=4).eval(), draw(2, 3, 8, 8)
    plain, related = block(x).chunk(2, 1)
    assert torch.equal(plain, block.plain(x))
    assert torch.equal(related, block.related(x))


def test_channels_double_per_level_and_sizes_halve():
    network = ChannelUNet(ChannelUNetOptions(width=4, depth=3, grid=4), in_channels=1)
    skips, bottom = network.encode(draw(1, 1, 16, 8))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 16, 8), (8, 8, 4)]
    assert bottom.shape == (1, 16, 4, 2)
    assert count_parameters(network) > 5 * (16 + 1) * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 5}, "even"), ({"width": 0}, "width"), ({"depth": 8}, "depth"), ({"grid": 1}, "grid")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ChannelUNetOptions.from_json(options)
