# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.unet import UNet, UNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(in_channels: int, classes: int, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["unet"].build(options, in_channels=in_channels, classes=classes))


class TestUNet(ArchitectureContract):
    name = "unet"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestUNetLinearInstance(ArchitectureContract):
    name = "unet"
    options = {"width": 4, "depth": 3, "norm": "instance", "upsample": "linear"}
    losses = {"ce": 1.0, "dice": 1.0}
    size = (16, 16)
    classes = 4


class TestUNetVolumes(ArchitectureContract):
    name = "unet"
    options = {"width": 4, "depth": 2}
    losses = {"dice": 1.0}
    size = (4, 8, 6)
    in_channels = 1


def test_parameters_are_those_of_the_published_network():
    assert count(1, 2) == 31_042_434
    assert count(3, 2) == 31_043_586
    assert count(1, 2, width=32) == 7_765_442
    assert ARCHITECTURES["unet"].published_parameters() == 31_042_434


def test_channels_double_per_level_and_sizes_halve():
    network = UNet(UNetOptions(width=3, depth=4), in_channels=1)
    skips, bottom = network.encode(torch.zeros(1, 1, 16, 8))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(3, 16, 8), (6, 8, 4), (12, 4, 2)]
    assert bottom.shape == (1, network.bottom_channels, 2, 1)
    assert network.bottom_channels == 24


def test_dropout_acts_in_training_only():
    network = UNet(UNetOptions(width=2, depth=2, dropout=0.9), in_channels=1)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.eval()
    assert torch.equal(network(x), network(x))
    network.dropout.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"depth": 1}, "depth"), ({"dropout": 1.0}, "dropout"), ({"norm": "none"}, "norm")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UNetOptions.from_json(options)
