# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.attention_unet import AttentionUNet, AttentionUNetOptions, Gate
from overread.architectures.unet import UNet, UNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(in_channels: int, classes: int, **options: object) -> int:
    with torch.device("meta"):
        model = ARCHITECTURES["attention_unet"].build(options, in_channels=in_channels, classes=classes)
    return count_parameters(model)


def wiring() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(AttentionUNetOptions(width=4, depth=3), in_channels=1).eval()


class TestAttentionUNet(ArchitectureContract):
    name = "attention_unet"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestAttentionUNetVolumes(ArchitectureContract):
    name = "attention_unet"
    options = {"width": 4, "depth": 2}
    losses = {"dice": 1.0}
    size = (4, 8, 6)
    in_channels = 1


def test_parameters_are_those_of_the_fact_sheets():
    assert ARCHITECTURES["attention_unet"].published_parameters() == count(1, 2) == 34_877_486
    # The backbone of UGS-Net: three colours, 2 x 576 more weights in the first layer; one output, a head of 65 less.
    assert count(3, 2) - 65 == 34_878_573


def test_a_gate_has_half_of_the_channels_inside():
    # W_g, W_x: C * C/2 weights, C/2 biases, C norm values each; psi: C/2 weights, 1 bias, 2 norm values.
    assert count_parameters(Gate(2, 64)) == 2 * (64 * 32 + 32 + 64) + 32 + 1 + 2


def test_a_gate_by_hand():
    gate = Gate(2, 2).eval()  # unused running statistics: the norms divide by sqrt(1 + 1e-5)
    with torch.no_grad():
        for layer, weights in ((gate.w_g, [1.0, 0.0]), (gate.w_x, [0.0, 1.0]), (gate.psi, [math.log(3) / 3])):
            layer[0].weight.copy_(torch.tensor(weights).reshape(1, -1, 1, 1))
            layer[0].bias.zero_()
    x = torch.tensor([[3.0, 8.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)  # channels (3, 1) at the left, (8, 1) at the right
    g = torch.tensor([[2.0, -4.0], [5.0, 7.0]]).reshape(1, 2, 1, 2)
    # Left: relu(2 + 1) = 3, psi = sigmoid(ln 3) = 3/4. Right: relu(-4 + 1) = 0, psi = 1/2.
    expected = torch.tensor([[2.25, 4.0], [0.75, 0.5]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(gate(x, g), expected, atol=1e-4, rtol=0)


def test_open_gates_leave_a_u_net_with_linear_upsampling():
    network = wiring()
    plain = UNet(UNetOptions(width=4, depth=3, upsample="linear"), in_channels=1).eval()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "gates" not in name})
    x = torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(network(x), plain(x))
    with torch.no_grad():
        for gate in network.gates:
            gate.psi[1].bias.fill_(100.0)
    torch.testing.assert_close(network(x), plain(x))


def test_closed_gates_let_nothing_of_the_skips_through():
    network = wiring()
    x = torch.randn(1, 1, 16, 8, generator=torch.Generator().manual_seed(0))
    skips, bottom = network.encode(x)
    with torch.no_grad():
        for gate in network.gates:
            gate.psi[1].bias.fill_(-200.0)
    torch.testing.assert_close(network.decode(skips, bottom), network.decode([-skip for skip in skips], bottom))


def test_the_maps_of_the_gates_can_be_looked_at():
    network, seen = wiring(), {}
    for level, gate in enumerate(network.gates):
        gate.psi.register_forward_hook(lambda _, __, psi, level=level: seen.update({level: psi}))
    network(torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0)))
    assert {level: tuple(psi.shape) for level, psi in seen.items()} == {0: (2, 1, 16, 8), 1: (2, 1, 8, 4)}
    assert all(0 < psi.min() < psi.max() < 1 for psi in seen.values())


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 5}, "even"), ({"width": 0}, "width"), ({"depth": 1}, "depth")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        AttentionUNetOptions.from_json(options)
