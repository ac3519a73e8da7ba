import pytest
import torch
from torch import Tensor

from overread.architectures import count_parameters
from overread.architectures.encoders import build_encoder
from overread.architectures.feature_pyramid import FeaturePyramid, Stages
from overread.architectures.grid import Wiring

INPUTS = (2, 3, 4, 5)
LATERALS = (2 + 3 + 4 + 5) * 8 + 4 * 8


def stages(seed: int = 0, samples: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, c, 16 >> i, 24 >> i, generator=generator) for i, c in enumerate(INPUTS)]


def pyramid(wiring: Wiring, channels: int = 8) -> FeaturePyramid:
    torch.manual_seed(0)
    return FeaturePyramid(INPUTS, channels=channels, wiring=wiring)


@pytest.mark.parametrize(
    ("wiring", "taken"),
    [
        ("plain", [1, 1, 1, 1]),  # one Conv3 on every output
        ("nested", [2, 2, 2, 3, 3, 4]),  # x01 x11 x21, x02 x12, x03
        ("full_scale", [4, 4, 4]),  # x21 x12 x03: one map of every level each
        ("sharp", [2, 2, 2, 4, 4, 6]),  # x02 also takes x20, x12 x30, x03 x21 and x30
    ],
)
def test_nodes_take_what_the_grid_says(wiring, taken):
    assert count_parameters(pyramid(wiring)) == LATERALS + sum(n * 8 * 8 * 9 + 8 for n in taken)


@pytest.mark.parametrize("wiring", ["plain", "nested", "full_scale", "sharp"])
def test_five_maps_of_halving_size_and_equal_channels(wiring):
    maps = pyramid(wiring)(stages(samples=2))
    assert [tuple(p.shape) for p in maps] == [(2, 8, *s) for s in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))]
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


@pytest.mark.parametrize("wiring", ["plain", "nested", "sharp"])
def test_a_level_sees_its_own_stage_and_all_deeper_ones(wiring):
    assert seen(wiring) == [{0, 1, 2, 3}, {1, 2, 3}, {2, 3}, {3}, {3}]


def test_with_full_scale_skips_it_sees_the_finer_ones_too():
    assert seen("full_scale") == [{0, 1, 2, 3}, {0, 1, 2, 3}, {0, 1, 2, 3}, {3}, {3}]


def seen(wiring: Wiring) -> list[set[int]]:
    """Return for P2..P6 the stages that they depend on."""
    network, result = pyramid(wiring), []
    for level in range(5):
        inputs = [x.requires_grad_() for x in stages()]
        network(inputs)[level].abs().sum().backward()
        result.append({i for i, x in enumerate(inputs) if x.grad is not None and x.grad.abs().max() > 0})
    return result


def constant(wiring: Wiring) -> tuple[FeaturePyramid, list[Tensor]]:
    """Return a pyramid whose convolutions add up the channels of the pixel itself, and stages 1, 10, 100, 1000."""
    network = FeaturePyramid([1] * 4, channels=1, wiring=wiring)
    with torch.no_grad():
        for layer in (*network.laterals, *network.nodes.values()):
            layer.weight.zero_()
            layer.weight[:, :, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2] = 1
    return network, [torch.full((1, 1, 16 >> i, 16 >> i), 10.0**i) for i in range(4)]


@pytest.mark.parametrize(
    ("wiring", "values"),
    [
        ("plain", [1111, 1110, 1100, 1000, 1000]),
        # x01 11, x11 110, x21 1100; x02 = 1 + 11 + 110, x12 = 10 + 110 + 1100; x03 = 1 + 11 + 122 + 1220
        ("nested", [1354, 1220, 1100, 1000, 1000]),
        # x21 = 1 + 10 + 100 + 1000; x12 = 1 + 10 + 1111 + 1000; x03 = 1 + 2122 + 1111 + 1000
        ("full_scale", [4234, 2122, 1111, 1000, 1000]),
        # x12 takes 1000 more; x02 100 more: 222; x03 = 1 + 11 + 222 + 2220 + 1100 + 1000
        ("sharp", [4554, 2220, 1100, 1000, 1000]),
    ],
)
@torch.no_grad()
def test_sums_by_hand(wiring, values):
    network, inputs = constant(wiring)
    for found, value in zip(network(inputs), values, strict=True):
        torch.testing.assert_close(found, torch.full_like(found, value))


@torch.no_grad()
def test_outputs_are_linear_and_inner_nodes_are_not():
    network, inputs = constant("nested")
    assert network([-x for x in inputs])[2].max() == -1100
    assert network([-x for x in inputs])[0].max() == -1 - (10 + 1100)  # x01, x02 and x11 are 0


@torch.no_grad()
def test_plain_upsampling_repeats_pixels():
    network, inputs = constant("plain")
    inputs[3][0, 0, 0, 1] = 0
    column = network(inputs)[2][0, 0, 0]
    assert column.tolist() == [1100, 1100, 100, 100]


@pytest.mark.parametrize(
    ("name", "levels", "channels"),
    [
        ("double_conv", 6, (8, 16, 32, 64)),
        ("vgg16", 5, (4, 8, 16, 16)),
        ("resnet18", 5, (2, 4, 8, 16)),
        ("resnet50", 5, (8, 16, 32, 64)),
    ],
)
@torch.no_grad()
def test_stages_have_strides_4_to_32(name, levels, channels):
    network = Stages(build_encoder(name, in_channels=1, width=2, levels=levels)).eval()
    assert network.channels == channels
    maps = network(torch.zeros(1, 1, 64, 96))
    assert [tuple(c.shape) for c in maps] == [(1, c, 16 >> i, 24 >> i) for i, c in enumerate(channels)]
