# ruff: noqa: RUF012  (settings of a contract suite are constants)
from typing import Any

import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.unext import COLUMNS, ROWS, TokenBlock, TokenNorm, UNeXt, UNeXtOptions, shift_channels
from overread.errors import UserError
from overread.records import Batch
from overread.testing.architectures import ArchitectureContract


class OfBlocks(ArchitectureContract):
    """The contract on images of 4 x 4 blocks: an output interpolated from half the size cannot tell single pixels."""

    name = "unext"

    def batch(self, **changes: Any) -> Batch:
        def blocks(values: torch.Tensor) -> torch.Tensor:
            return values[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2)

        return super().batch(**changes).map(images=blocks, ids=blocks)


class TestUNeXt(OfBlocks):
    options = {"width": 8}
    size = (32, 64)


class TestUNeXtUnshifted(OfBlocks):
    options = {"width": 8, "shift": 1}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (64, 32)
    classes = 4


def test_parameters_are_those_of_the_published_network():
    with torch.device("meta"):
        network = count_parameters(UNeXt(UNeXtOptions(), in_channels=3))
        unshifted = count_parameters(UNeXt(UNeXtOptions(shift=1), in_channels=3))
    assert network + (16 + 1) == 1_471_921
    assert ARCHITECTURES["unext"].published_parameters() == network + 2 * (16 + 1) == 1_471_938
    assert unshifted == network


def test_channels_are_those_of_the_five_stages_and_sizes_halve():
    network = UNeXt(UNeXtOptions(width=2), in_channels=1)
    skips, bottom = network.encode(torch.zeros(2, 1, 64, 32))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(2, 32, 16), (4, 16, 8), (16, 8, 4), (20, 4, 2)]
    assert bottom.shape == (2, network.bottom_channels, 2, 1)
    assert network.bottom_channels == 32


def test_five_parts_of_the_channels_move_by_two_pixels_at_most_and_zeros_enter():
    column = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1).expand(1, 5, 3, 1)
    moved = [[3, 0, 0], [2, 3, 0], [1, 2, 3], [0, 1, 2], [0, 0, 1]]
    assert shift_channels(column, 5, ROWS)[0, :, :, 0].tolist() == moved
    assert shift_channels(column.transpose(2, 3), 5, COLUMNS)[0, :, 0].tolist() == moved
    assert torch.equal(shift_channels(column, 5, COLUMNS)[0, 2], column[0, 2])  # a single column: the middle part stays
    assert shift_channels(column, 5, COLUMNS)[0, [0, 1, 3, 4]].abs().max() == 0
    assert shift_channels(column, 1, ROWS) is column


def test_parts_are_as_equal_as_possible():
    x = torch.arange(1.0, 4.0).expand(1, 7, 1, 3)
    rows = shift_channels(x, 5, COLUMNS)[0, :, 0].tolist()
    assert rows == [[3, 0, 0]] * 2 + [[2, 3, 0]] * 2 + [[1, 2, 3], [0, 1, 2], [0, 0, 1]]


def test_the_token_norm_is_over_the_channels_of_each_pixel():
    x = torch.tensor([1.0, 3.0, 10.0, 30.0]).reshape(1, 2, 1, 2)  # pixels (1, 10) and (3, 30)
    torch.testing.assert_close(TokenNorm(2)(x), torch.tensor([-1.0, -1.0, 1.0, 1.0]).reshape(1, 2, 1, 2))


@pytest.mark.parametrize(("shift", "reach"), [(1, 1), (5, 3)])
def test_shifts_widen_what_a_block_sees_along_both_axes(shift, reach):
    torch.manual_seed(0)
    block = TokenBlock(5, shift).eval()
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    x = torch.randn(1, 5, 11, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # the gradient of a single channel of LN is the same everywhere but where nothing is seen
    (gradient,) = torch.autograd.grad(block(x)[0, 0, 5, 5], x)
    seen = gradient.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert (rows[0].item(), rows[-1].item()) == (5 - reach, 5 + reach)
    assert (columns[0].item(), columns[-1].item()) == (5 - reach, 5 + reach)


def test_skips_are_added():
    torch.manual_seed(0)
    network = UNeXt(UNeXtOptions(width=1), in_channels=1).eval()
    skips, bottom = network.encode(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    for up in network.ups:
        nn.init.zeros_(up.norm.weight)
    nn.init.dirac_(network.last.weight)
    expected = nn.functional.interpolate(skips[0], scale_factor=2.0, mode="bilinear").relu()
    torch.testing.assert_close(network.decode(skips, bottom), expected)


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "width"), ({"shift": 4}, "shift must be odd and positive, but got 4")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UNeXtOptions.from_json(options)
