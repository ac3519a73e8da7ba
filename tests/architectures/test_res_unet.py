# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.res_unet import ResidualUnit, ResUnet, ResUnetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(in_channels: int = 3, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ResUnet(ResUnetOptions(**options), in_channels=in_channels))


class TestResUnet(ArchitectureContract):
    name = "res_unet"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestResUnetOfThePaper(ArchitectureContract):
    name = "res_unet"
    options = {"width": 4, "depth": 3, "shortcut_kernel": 1, "upsample": "linear", "norm": "instance"}
    losses = {"dice": 1.0}
    size = (16, 16)
    classes = 4


class TestResUnetVolumes(ArchitectureContract):
    name = "res_unet"
    options = {"width": 4, "depth": 2}
    losses = {"dice": 1.0}
    size = (4, 8, 6)
    in_channels = 1


def test_parameters_are_those_of_the_published_network():
    assert count() + (64 + 1) == 13_043_009
    assert ARCHITECTURES["res_unet"].published_parameters() == count() + 2 * (64 + 1) == 13_043_074


def test_the_papers_own_shortcuts_and_upsampling_are_its_8_million():
    small = count(shortcut_kernel=1, upsample="linear") + 65
    assert small == 8_223_681
    pairs = [(64, 128), (128, 256), (256, 512), (768, 256), (384, 128), (192, 64)]
    projections = 4 * 64 + sum(i * o + 3 * o for i, o in pairs)  # weights, biases and norms; the first has no norm
    assert round((small - projections) / 1e6, 1) == 7.8
    # 3x3 shortcuts have 9 weights for 1, and there is a transposed 2x2 convolution for each upsampling
    wider = 8 * (3 * 64 + sum(i * o for i, o in pairs))
    ups = sum(4 * c * c + c for c in (512, 256, 128))
    assert small + wider + ups == 13_043_009


def test_channels_double_per_level_and_strides_halve_the_sizes():
    network = ResUnet(ResUnetOptions(width=3), in_channels=1)
    skips, bottom = network.encode(torch.zeros(2, 1, 16, 24))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(3, 16, 24), (6, 8, 12), (12, 4, 6)]
    assert bottom.shape == (2, network.bottom_channels, 2, 3)
    assert network.bottom_channels == 24


def test_units_activate_before_they_convolve_and_add_the_shortcut_last():
    unit = ResidualUnit(ResUnetOptions(shortcut_kernel=1), 2, 1, 1).eval()
    kinds = [type(layer) for layer in unit.main]
    assert kinds == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * 2
    for layer in unit.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    x = torch.tensor([[[[-2.0, 3.0]]]])
    assert unit(x)[0, 0, 0].tolist() == [-2.0, 6.0]  # relu(x) + x: nothing is cut off after the sum


def test_the_first_unit_starts_with_its_convolution():
    first = ResidualUnit(ResUnetOptions(), 2, 3, 8, first=True)
    assert [type(layer) for layer in first.main] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert [type(layer) for layer in first.shortcut] == [nn.Conv2d]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"depth": 1}, "depth"), ({"shortcut_kernel": 2}, "shortcut_kernel")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ResUnetOptions.from_json(options)
