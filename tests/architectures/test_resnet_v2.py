import pytest
import torch

from overread.architectures.contract import count_parameters
from overread.architectures.resnet_v2 import BottleneckUnit, ResNetV2, StandardisedConv, group_norm


def test_parameters_of_r50():
    with torch.device("meta"):
        resnet = ResNetV2(in_channels=3)
    assert count_parameters(resnet.stem) == 3 * 64 * 49 + 2 * 64
    # 1x1, 3x3, 1x1 and their norms; the first unit also has a projection
    first = 64 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256) + 64 * 256 + 2 * 256
    other = 256 * 64 + 9 * 64 * 64 + 64 * 256 + 2 * (64 + 64 + 256)
    assert count_parameters(resnet.stages[0]) == first + 2 * other
    assert [len(stage) for stage in resnet.stages] == [3, 4, 9]
    assert count_parameters(resnet) == 11_894_848


def test_maps_halve_exactly():
    resnet = ResNetV2(in_channels=2, width=8, units=(2, 1, 1)).eval()
    maps = resnet(torch.zeros(1, 2, 48, 32))
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 24, 16), (32, 12, 8), (64, 6, 4), (128, 3, 2)]
    assert resnet.channels == (8, 32, 64, 128)
    assert resnet.strides == (2, 4, 8, 16)
    assert resnet.size_multiple == 16


def test_standardised_weights_by_hand():
    layer = StandardisedConv(4, 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 3, 5, 5], [7, 7, 7, 7]]).reshape(2, 4, 1, 1))
    found = layer(torch.tensor([1.0, 2, 3, 4]).reshape(1, 4, 1, 1))
    # mean 4 and deviation 1: the weights are -1, -1, 1, 1; equal ones are 0
    torch.testing.assert_close(found.flatten(), torch.tensor([4.0, 0.0]), atol=1e-3, rtol=0)


def test_neither_scale_nor_mean_of_the_weights_matters():
    layer, other = StandardisedConv(3, 5, 3, stride=2), StandardisedConv(3, 5, 3, stride=2)
    with torch.no_grad():
        other.weight.copy_(20 * layer.weight - 3)
    x = torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    assert layer(x).shape == (1, 5, 4, 3)
    torch.testing.assert_close(layer(x), other(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (1024, 32), (48, 8), (16, 8), (12, 2), (4, 2), (6, 1), (5, 1), (1, 1)]
)
def test_groups_divide_the_channels_and_have_two_or_more(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_a_unit_by_hand():
    unit = BottleneckUnit(8, 8)
    for parameter in unit.main[-1].parameters():
        torch.nn.init.zeros_(parameter)  # f(x) = 0
    x = torch.randn(1, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit(x), x.relu())
    torch.nn.init.constant_(unit.main[-1].bias, 1.0)
    assert torch.equal(unit(x), (x + 1).relu())
    assert BottleneckUnit(8, 8, stride=2)(x[..., :2, :]).shape == (1, 8, 1, 2)
