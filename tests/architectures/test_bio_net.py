# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.bio_net import BiONet, BiONetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(**options: object) -> int:
    with torch.device("meta"):
        return count_parameters(BiONet(BiONetOptions(**options), in_channels=3))


def images(channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


class TestBiONet(ArchitectureContract):
    name = "bio_net"
    options = {"width": 4, "depth": 2, "iterations": 2}
    size = (16, 24)


class TestBiONetLastOnly(ArchitectureContract):
    name = "bio_net"
    options = {"width": 4, "depth": 1, "iterations": 3, "integrate": False, "bottom_norms": "separate"}
    losses = {"dice": 1.0}
    size = (8, 8)
    classes = 4


def test_parameters_are_those_of_the_published_network():
    one_map, two_maps = 32 + 1, 2 * (32 + 1)
    assert count() + one_map == 14_996_289
    assert ARCHITECTURES["bio_net"].published_parameters() == count() + two_maps == 14_996_322
    unread = 2 * 32  # scale and shift of the first iteration's output
    assert count(iterations=2, integrate=False) + one_map + unread == 14_971_137


def test_an_iteration_costs_norms_and_inputs_of_the_ending_only():
    # two norms of c and one of 2 c in the encoder, three of c in the decoder, for c = 32, 64, 128, 256
    norms = 2 * sum(2 * c + 2 * c + 3 * c for c in (32, 64, 128, 256))
    assert count(iterations=4) - count(iterations=3) == norms + 9 * 32 * 32
    assert count(bottom_norms="separate") - count() == (3 - 1) * 3 * 2 * 512


def test_the_convolutions_are_the_same_in_every_iteration_and_the_norms_are_not():
    network = BiONet(BiONetOptions(width=2, depth=2, iterations=3), in_channels=1)
    calls: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    network(images())
    assert calls.count("encoder.1.first.layer") == calls.count("bottom.0.layer") == calls.count("ups.0.layer") == 3
    assert calls.count("stem.0.layer") == calls.count("ending.1.layer") == 1
    assert [calls.count(f"encoder.1.first.norms.{iteration}") for iteration in range(3)] == [1, 1, 1]
    assert calls.count("bottom.0.norms.0") == 3


@pytest.mark.parametrize("level", [0, 1])
def test_the_encoder_takes_its_own_input_twice_and_then_what_the_decoder_made(level):
    network = BiONet(BiONetOptions(width=2, depth=2, iterations=2), in_channels=1)
    taken: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    network.encoder[level].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    network.decoder[level].register_forward_hook(lambda *arguments: made.append(arguments[2]))
    network(images())
    own, backward = taken[0].chunk(2, 1)
    assert torch.equal(own, backward)
    own, backward = taken[1].chunk(2, 1)
    assert torch.equal(backward, made[0])
    assert not torch.equal(own, backward)


def test_integration_reads_all_outputs_and_without_it_only_the_last():
    seen: dict[bool, torch.Size] = {}
    for integrate in (True, False):
        network = BiONet(BiONetOptions(width=2, depth=1, iterations=3, integrate=integrate), in_channels=1)
        network.ending.register_forward_pre_hook(lambda _, x, key=integrate: seen.update({key: x[0].shape}))
        assert network(images(size=8)).shape == (2, 2, 8, 8)
    assert seen == {True: (2, 3 * 2, 8, 8), False: (2, 2, 8, 8)}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"depth": 0}, "depth"), ({"iterations": 0}, "iterations must be at least 1, but got 0")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        BiONetOptions.from_json(options)
