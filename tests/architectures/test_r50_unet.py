# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.architectures.r50_unet import R50UNet, R50UNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 4, "units": [1, 1, 1]}


def wiring(**options: object) -> R50UNet:
    torch.manual_seed(0)
    return R50UNet(R50UNetOptions.from_json(SMALL | options), in_channels=1).eval()


class TestR50UNet(ArchitectureContract):
    name = "r50_unet"
    options = SMALL
    size = (32, 48)


class TestR50AttentionUNet(ArchitectureContract):
    name = "r50_unet"
    options = SMALL | {"gates": True}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 32)
    in_channels = 1


def test_parameters():
    entry = ARCHITECTURES["r50_unet"]
    plain, gated = entry.published_parameters(), entry.published_parameters("r50_attention_unet")
    steps = ((1024, 512), (512, 256), (256, 128), (128, 64))
    # a transposed convolution has 4 weights and a bias; a Conv3 unit 9 weights, a bias and two of its norm
    ups = sum(9 * i * o + 3 * o for i, o in steps) - sum(4 * i * o + o for i, o in steps)
    # W_g and W_x to half of the skip's channels c: weights, biases, norms; psi: weights, bias, norm
    gates = sum((g + c) * c // 2 + 3 * c + c // 2 + 3 for c, g in ((512, 512), (256, 256), (64, 128)))
    assert gated - plain == ups + gates
    assert (plain, gated) == (23_977_161, 27_797_426)


def test_channels_and_sizes_of_the_halves():
    skips, bottom = wiring(width=8).encode(torch.zeros(1, 1, 32, 48))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(8, 16, 24), (32, 8, 12), (64, 4, 6)]
    assert bottom.shape == (1, 128, 2, 3)


@pytest.mark.parametrize("gates", [False, True])
def test_every_skip_is_read(gates):
    network = wiring(gates=gates)
    skips, bottom = network.encode(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    before = network.decode(skips, bottom)
    assert before.shape == (1, 4, 32, 32)
    for level in range(3):
        changed = [x + 1 if i == level else x for i, x in enumerate(skips)]
        assert (network.decode(changed, bottom) - before).abs().max() > 1e-3


def test_closed_gates_let_nothing_of_the_skips_through():
    network = wiring(gates=True)
    skips, bottom = network.encode(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for gate in network.gates:
            gate.psi[1].bias.fill_(-200.0)
    torch.testing.assert_close(network.decode(skips, bottom), network.decode([-skip for skip in skips], bottom))


@pytest.mark.parametrize(("options", "message"), [({"width": 3}, "width"), ({"units": [3, 0, 9]}, "units")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        R50UNetOptions.from_json(options)
