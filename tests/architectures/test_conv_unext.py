# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math

import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.conv_unext import Block, ConvUNeXt, ConvUNeXtOptions, SkipGate, WideConv, pad_by_reflection
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


class TestConvUNeXt(ArchitectureContract):
    name = "conv_unext"
    options = {"width": 4, "depth": 3, "main_blocks": 2}
    size = (16, 24)


class TestConvUNeXtSmallMaps(ArchitectureContract):
    name = "conv_unext"
    options = {"width": 4, "depth": 4, "main_blocks": 1, "kernel": 5}
    losses = {"dice": 1.0}
    size = (8, 16)  # the deepest map is 1 x 2
    classes = 4


class TestConvUNeXtVolumes(ArchitectureContract):
    name = "conv_unext"
    options = {"width": 4, "depth": 3, "main_blocks": 1, "kernel": 3}
    losses = {"dice": 1.0}
    size = (4, 8, 8)
    in_channels = 1


def test_parameters_are_those_of_the_published_network():
    assert ARCHITECTURES["conv_unext"].published_parameters() == 3_505_730
    with torch.device("meta"):
        one_channel = count_parameters(ConvUNeXt(ConvUNeXtOptions(), in_channels=1))
    assert one_channel + 2 * 33 == 3_505_730 - 2 * 49 * 32


def test_the_deepest_level_keeps_the_channels_of_the_one_above():
    network = ConvUNeXt(ConvUNeXtOptions(width=2), in_channels=1)
    skips, bottom = network.encode(torch.zeros(2, 1, 32, 16))
    shapes = [tuple(skip.shape[1:]) for skip in skips]
    assert shapes == [(2, 32, 16), (4, 16, 8), (8, 8, 4), (16, 4, 2)]
    assert bottom.shape == (2, network.bottom_channels, 2, 1)
    assert network.bottom_channels == 16
    blocks = [sum(isinstance(layer, Block) for layer in stage) for stage in network.encoder]
    assert blocks == [1, 1, 1, 3, 1]


def test_borders_are_mirrored_without_the_edge_and_small_maps_repeat_theirs():
    row = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])  # 1 x 4: the columns can be mirrored by 3, the single row cannot
    padded = pad_by_reflection(row, 3)
    assert padded.shape == (1, 1, 7, 10)
    assert padded[0, 0].tolist() == [[4, 3, 2, 1, 2, 3, 4, 3, 2, 1]] * 7
    assert pad_by_reflection(row[..., :2], 2)[0, 0, 0].tolist() == [2, 2, 1, 2, 1, 1]


def test_wide_convolutions_see_the_mirrored_border():
    layer = WideConv(2, 1, 1, 3)
    nn.init.ones_(layer.convolution.weight)
    nn.init.zeros_(layer.convolution.bias)
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # mirrored to [[4, 3, 4, 3], [2, 1, 2, 1], [4, 3, 4, 3], [2, 1, 2, 1]]
    assert layer(image)[0, 0].tolist() == [[27, 24], [21, 18]]


def test_a_block_whose_branch_is_silent_is_gelu():
    block = Block(2, 3, 7).eval()
    nn.init.zeros_(block.branch[-1].weight)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), nn.functional.gelu(x))


def test_the_gate_by_hand():
    gate = SkipGate(2, 1)
    for layer in (gate.gates, gate.inner, gate.outer):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    gate.gates.bias.data.copy_(torch.tensor([0.0, -1.0, 2.0]))
    x, skip = torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 3.0)

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    # g1 = 0.5, g2 = 0.5 - 1, g3 = 0.5 + 2
    expected = sigmoid(0.5 + 3) * 3 + sigmoid(-0.5) * math.tanh(2.5)
    assert gate(x, skip).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"depth": 2}, "depth"), ({"main_blocks": 0}, "main_blocks"), ({"kernel": 4}, "odd")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ConvUNeXtOptions.from_json(options)
