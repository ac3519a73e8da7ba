# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.deformable import DeformableConv
from overread.architectures.dunet import DUNet, DUNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(in_channels: int = 1, classes: int = 2, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["dunet"].build(options, in_channels=in_channels, classes=classes))


def deformable_layers(**options: object) -> list[DeformableConv]:
    with torch.device("meta"):
        network = DUNet(DUNetOptions(**options), in_channels=1)
    return [layer for layer in network.modules() if isinstance(layer, DeformableConv)]


class TestDUNet(ArchitectureContract):
    name = "dunet"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestDUNetCoarse(ArchitectureContract):
    name = "dunet"
    options = {"width": 4, "depth": 2, "deformable": [False]}
    losses = {"ce": 1.0, "dice": 1.0}
    size = (8, 6)
    classes = 4


def test_parameters_are_those_of_the_network_and_18_maps_of_offsets_per_unit():
    assert ARCHITECTURES["dunet"].published_parameters() == 11_488_440
    assert count(in_channels=3) == 11_488_440 + 2 * 9 * 32
    inputs = [32, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512]  # encoder
    inputs += [256, 256, 128, 128, 64, 64, 32, 32]  # decoder
    offsets = sum((9 * channels + 1) * 18 for channels in inputs)
    assert offsets == 482_454
    assert count(deformable=[False] * 5) == 11_488_440 - offsets


def test_every_unit_is_deformable_unless_its_level_is_not():
    assert len(deformable_layers()) == 10 + 1 + 8
    assert len(deformable_layers(deformable=(False,))) == 19 - 4
    assert len(deformable_layers(depth=3, deformable=(True, False))) == 2 + 3 + 2


def test_channels_double_per_level_and_sizes_halve():
    network = DUNet(DUNetOptions(width=3, depth=4), in_channels=1)
    skips, bottom = network.encode(torch.zeros(1, 1, 16, 8))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(3, 16, 8), (6, 8, 4), (12, 4, 2)]
    assert bottom.shape == (1, network.bottom_channels, 2, 1)
    assert network.bottom_channels == 24


def test_it_starts_as_the_plain_network_of_the_same_weights():
    options = {"width": 2, "depth": 3}
    deformable = DUNet(DUNetOptions(**options), in_channels=1).eval()
    plain = DUNet(DUNetOptions(**options, deformable=(False,) * 3), in_channels=1).eval()
    weights = {k.replace(".convolution", ""): v for k, v in deformable.state_dict().items() if "offsets" not in k}
    plain.load_state_dict(weights)
    x = torch.randn(1, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(deformable(x), plain(x), atol=1e-4, rtol=1e-4)
    for layer in deformable.modules():
        if isinstance(layer, DeformableConv):
            torch.nn.init.constant_(layer.offsets.bias, 0.5)
    assert (deformable(x) - plain(x)).abs().max() > 1e-2


def test_offsets_move_as_the_network_learns():
    torch.manual_seed(0)
    network = DUNet(DUNetOptions(width=2, depth=2), in_channels=1)
    network(torch.randn(2, 1, 8, 8)).square().mean().backward()
    gradients = [layer.offsets.weight.grad for layer in network.modules() if isinstance(layer, DeformableConv)]
    assert len(gradients) == 7
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"depth": 1}, "depth"), ({"depth": 2, "deformable": [True] * 3}, "deformable")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DUNetOptions.from_json(options)
