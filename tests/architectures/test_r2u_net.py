# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.r2u_net import R2UNet, R2UNetOptions, RecurrentConv, RecurrentResidual
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def wiring(**options: object) -> R2UNet:
    torch.manual_seed(0)
    return R2UNet(R2UNetOptions(**{"width": 4, "depth": 3, **options}), in_channels=1).eval()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class TestR2UNet(ArchitectureContract):
    name = "r2u_net"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestR2AUNet(ArchitectureContract):
    name = "r2u_net"
    options = {"width": 4, "depth": 2, "steps": 1, "attention": True}
    losses = {"dice": 1.0}
    size = (8, 16)
    classes = 2


class TestR2UNetVolumes(ArchitectureContract):
    name = "r2u_net"
    options = {"width": 2, "depth": 2}
    size = (4, 8, 6)
    in_channels = 1


def test_parameters_are_those_of_the_fact_sheet_and_of_one_more_map():
    entry = ARCHITECTURES["r2u_net"]
    assert entry.published_parameters() == 39_091_393 + 65
    assert entry.published_parameters("r2au_net") == 39_442_925 + 65


def test_steps_share_their_weights():
    for attention in (False, True):
        counts = {count_parameters(wiring(steps=steps, attention=attention)) for steps in (0, 1, 2, 5)}
        assert len(counts) == 1


def test_a_recurrent_convolution_by_hand():
    layer = RecurrentConv(2, 1, steps=2).eval()
    with torch.no_grad():
        layer.unit[0].weight.zero_()
        layer.unit[0].weight[0, 0, 1, 1] = 0.5
        layer.unit[0].bias.fill_(1.0)
    # y = 0.5 * 4 + 1 = 3; then 0.5 * (4 + 3) + 1 = 4.5; then 0.5 * (4 + 4.5) + 1 = 5.25. A negative end is cut off.
    x = torch.tensor([4.0, -8.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(layer(x).flatten(), torch.tensor([5.25, 0.0]), atol=1e-3, rtol=0)


def test_a_block_adds_its_projection():
    block = RecurrentResidual(2, 3, 4, steps=2).eval()
    x = draw(2, 3, 6, 6)
    assert torch.equal(block(x), block.project(x) + block.recurrent(block.project(x)))
    with torch.no_grad():
        for parameter in block.recurrent.parameters():
            parameter.zero_()
    torch.testing.assert_close(block(x), block.project(x))


def test_channels_double_per_level_and_sizes_halve():
    skips, bottom = wiring().encode(torch.zeros(1, 1, 16, 8))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 16, 8), (8, 8, 4)]
    assert bottom.shape == (1, 16, 4, 2)


def test_gates_close_the_skips_of_r2au_net_alone():
    network, x = wiring(attention=True), draw(1, 1, 16, 8)
    assert len(network.gates) == 2
    assert len(wiring().gates) == 0
    skips, bottom = network.encode(x)
    with torch.no_grad():
        for gate in network.gates:
            gate.psi[1].bias.fill_(-200.0)
    torch.testing.assert_close(network.decode(skips, bottom), network.decode([-skip for skip in skips], bottom))


def test_open_gates_leave_r2u_net():
    gated, plain = wiring(attention=True), wiring()
    plain.load_state_dict({name: value for name, value in gated.state_dict().items() if "gates" not in name})
    x = draw(2, 1, 16, 8)
    assert not torch.allclose(gated(x), plain(x))
    with torch.no_grad():
        for gate in gated.gates:
            gate.psi[1].bias.fill_(100.0)
    torch.testing.assert_close(gated(x), plain(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"width": 5, "attention": True}, "even"),
        ({"depth": 1}, "depth"),
        ({"steps": -1}, "steps"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        R2UNetOptions.from_json(options)
