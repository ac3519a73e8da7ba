# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.blocks import upsample
from overread.architectures.unet_plus_plus import UNetPlusPlus, UNetPlusPlusOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

INPUTS = {
    "x01": 64 + 128,
    "x11": 128 + 256,
    "x21": 256 + 512,
    "x31": 512 + 1024,
    "x02": 2 * 64 + 128,
    "x12": 2 * 128 + 256,
    "x22": 2 * 256 + 512,
    "x03": 3 * 64 + 128,
    "x13": 3 * 128 + 256,
    "x04": 4 * 64 + 128,
}
"""Input channels of the nested nodes at the published width: j maps of their level and one from below."""


def block_parameters(inputs: int, outputs: int) -> int:
    """Two Conv3 with bias, two norms with scale and shift."""
    return (9 * inputs + 9 * outputs + 2 + 4) * outputs


def wiring(depth: int = 4) -> UNetPlusPlus:
    torch.manual_seed(0)
    return UNetPlusPlus(UNetPlusPlusOptions(width=3, depth=depth), in_channels=1).eval()


def watch(network: UNetPlusPlus) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what goes into and comes out of every node, filled by each forward pass."""
    entering: dict[str, torch.Tensor] = {}
    leaving: dict[str, torch.Tensor] = {}
    column = {f"x{level}0": block for level, block in enumerate(network.encoder)}
    for name, block in {**column, **network.nested}.items():

        def keep(_, inputs, output, name=name):
            entering[name], leaving[name] = inputs[0].clone(), output.clone()

        block.register_forward_hook(keep)
    return entering, leaving


class TestUNetPlusPlus(ArchitectureContract):
    name = "unet_plus_plus"
    options = {"width": 4, "depth": 3}
    size = (16, 24)


class TestUNetPlusPlusVolumes(ArchitectureContract):
    name = "unet_plus_plus"
    options = {"width": 4, "depth": 2}
    losses = {"dice": 1.0}
    size = (4, 8, 6)
    in_channels = 1


def test_parameters_are_those_of_the_fact_sheet_and_of_fifteen_nodes():
    widths = [64, 128, 256, 512, 1024]
    encoder = sum(block_parameters(i, o) for i, o in zip([1, *widths[:-1]], widths, strict=True))
    nested = sum(block_parameters(inputs, widths[int(name[1])]) for name, inputs in INPUTS.items())
    assert encoder + nested + (64 + 1) * 2 == 36_628_546
    assert ARCHITECTURES["unet_plus_plus"].published_parameters() == 36_628_546


def test_the_smaller_grid_of_the_unet_sharp_paper():
    with torch.device("meta"):
        model = ARCHITECTURES["unet_plus_plus"].build({"width": 32}, in_channels=3, classes=2)
    assert count_parameters(model) - (32 + 1) == 9_163_329  # it has one output


def test_nodes_take_all_earlier_ones_of_their_level_and_one_from_below():
    with torch.device("meta"):
        network = UNetPlusPlus(UNetPlusPlusOptions(), in_channels=1)
    assert {name: node[0][0].in_channels for name, node in network.nested.items()} == INPUTS


def test_the_wiring_of_every_node():
    network = wiring()
    entering, leaving = watch(network)
    last = network(torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)))
    sources = {
        "x01": ("x00", "x10"),
        "x11": ("x10", "x20"),
        "x21": ("x20", "x30"),
        "x02": ("x00", "x01", "x11"),
        "x12": ("x10", "x11", "x21"),
        "x03": ("x00", "x01", "x02", "x12"),
    }
    assert set(network.nested) == set(sources)
    for node, (*dense, below) in sources.items():
        expected = torch.cat([*(leaving[name] for name in dense), upsample(leaving[below])], 1)
        assert torch.equal(entering[node], expected)
    assert torch.equal(last, leaving["x03"])


def test_a_changed_deepest_map_reaches_the_last_diagonal_only():
    network = wiring()
    _, leaving = watch(network)
    skips, bottom = network.encode(torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert bottom.shape == (1, network.bottom_channels, 2, 2)
    network.decode(skips, bottom)
    before = dict(leaving)
    network.decode(skips, bottom + 1)
    assert {name for name in network.nested if not torch.equal(before[name], leaving[name])} == {"x21", "x12", "x03"}


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "width"), ({"depth": 1}, "depth"), ({"depth": 8}, "2..7")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UNetPlusPlusOptions.from_json(options)
