# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.ra_unet import AttentionResidual, RAUNet, RAUNetOptions, ResidualBlock, SoftMask
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

RAMP = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1, 4, 1, 1)
"""The same in all four channels."""


def pass_on(module: nn.Module) -> nn.Module:
    """Make every residual block of `module` return what it gets."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            last = block.main[2][2]
            for parameter in (last.weight, last.bias, block.shortcut.bias):
                nn.init.zeros_(parameter)
            nn.init.dirac_(block.shortcut.weight)
    return module.eval()


class TestRAUNet(ArchitectureContract):
    name = "ra_unet"
    options = {"width": 4, "depth": 4}
    losses = {"ce": 1.0}
    size = (16, 24)


class TestRAUNetVolumes(ArchitectureContract):
    name = "ra_unet"
    options = {"width": 4, "depth": 3}
    size = (4, 8, 12)
    in_channels = 1


def test_parameters_are_those_of_the_released_code_and_one_more_map():
    entry = ARCHITECTURES["ra_unet"]
    assert entry.published_parameters() == 2_916_626
    assert entry.published_parameters("ra_unet_i") == 738_042
    assert entry.published_parameters("ra_unet_ii") == 4_421_714
    with torch.device("meta"):
        one, two = (entry.build({}, in_channels=1, classes=k) for k in (2, 3))
    assert count_parameters(two) - count_parameters(one) == 9 * 32 + 1


def test_the_641_layers_of_the_paper():
    with torch.device("meta"):
        network = RAUNet(RAUNetOptions(), in_channels=1, spatial_dims=3)
    blocks = sum(isinstance(layer, ResidualBlock) for layer in network.modules())
    # three times norm, ReLU and convolution, a shortcut and a sum
    # per attention module of depth d: d poolings, d upsamplings, d - 1 sums; two convolutions, sigmoid, 1 + S, product
    # the image, six layers at full resolution and the head; five poolings, upsamplings and concatenations
    assert blocks * 11 + sum(3 * depth - 1 + 5 for depth in (1, 2, 3, 4)) + 1 + 6 + 1 + 3 * 5 == 641


def test_channels_and_sizes_of_the_levels():
    network = RAUNet(RAUNetOptions(width=4, depth=5), in_channels=1).eval()
    skips, bottom = network.encode(torch.zeros(1, 1, 32, 16))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 32, 16), (4, 16, 8), (8, 8, 4), (16, 4, 2)]
    assert bottom.shape == (1, network.bottom_channels, 2, 1)
    assert network.bottom_channels == 32
    assert len(network.attention) == 3


def test_a_residual_block_by_hand():
    block = ResidualBlock(2, 4, 8).eval()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(block.main[2][2].bias, 2.0)  # f(x)
    block.shortcut.weight.data[5, 1] = 3.0  # h(x): channel 5 is three times channel 1
    found = block(RAMP)[0, :, 0, 2]
    assert found.tolist() == [2, 2, 2, 2, 2, 8, 2, 2]


def test_the_soft_mask_by_hand():
    once = pass_on(SoftMask(2, 4, depth=1))(RAMP)
    assert once[0, 3].tolist() == [[5, 5, 7, 7], [5, 5, 7, 7], [13, 13, 15, 15], [13, 13, 15, 15]]
    twice = pass_on(SoftMask(2, 4, depth=2))(RAMP)  # adds the maximum of all, 15
    torch.testing.assert_close(twice, once + 15)


def test_attention_by_hand():
    module = pass_on(AttentionResidual(2, 4, depth=2))
    for parameter in module.mask[2].parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(module(RAMP), 1.5 * RAMP)  # sigmoid(0) = 1/2
    nn.init.constant_(module.mask[2].bias, -100.0)
    torch.testing.assert_close(module(RAMP), RAMP)  # a mask of 0 lets the trunk pass unchanged


def test_the_mask_sees_down_to_the_deepest_level():
    network = RAUNet(RAUNetOptions(width=4, depth=4), in_channels=1)
    depths = [sum(isinstance(layer, SoftMask) for layer in module.modules()) for module in network.attention]
    assert depths == [2, 1]


def test_the_finest_skip_passes_no_attention():
    network = RAUNet(RAUNetOptions(width=4, depth=2), in_channels=1)
    assert len(network.attention) == 0
    assert network(torch.zeros(1, 1, 4, 4)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize(("options", "message"), [({"width": 3}, "width"), ({"depth": 1}, "depth")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RAUNetOptions.from_json(options)
