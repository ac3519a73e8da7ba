# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.uctransnet import ChannelAttention, ChannelGate, UCTransNet, UCTransNetOptions, nearest
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 2, "transformer_depth": 1, "heads": 2, "position_grid": 2}


def count(in_channels: int = 3, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["uctransnet"].build(options, in_channels=in_channels, classes=2))


def wiring(**options: object) -> UCTransNet:
    torch.manual_seed(0)
    return UCTransNet(UCTransNetOptions(**(SMALL | options)), in_channels=1).eval()


class TestUCTransNet(ArchitectureContract):
    name = "uctransnet"
    options = SMALL | {"width": 4}
    size = (16, 32)


class TestUCTransNetPlain(ArchitectureContract):
    name = "uctransnet"
    options = {"width": 6, "transformer_depth": 2, "heads": 1, "mlp_ratio": 1, "dropout": 0.0, "position_grid": 1}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 16)
    classes = 4


def test_parameters_are_those_of_the_released_code_and_one_more_map():
    assert ARCHITECTURES["uctransnet"].published_parameters() == 66_430_657 + 65 == 66_430_722
    assert count(in_channels=1) == 66_430_722 - 2 * 9 * 64
    assert count(position_grid=16) == 66_430_722 + (16**2 - 14**2) * (64 + 128 + 256 + 512)


def test_channels_and_sizes_of_the_levels():
    skips, bottom = wiring().encode(torch.zeros(1, 1, 32, 16))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(2, 32, 16), (4, 16, 8), (8, 8, 4), (16, 4, 2)]
    assert bottom.shape == (1, 16, 2, 1)


def test_channel_attention_by_hand():
    # Two levels of one channel, two tokens; all weights 1: K = V = the tokens of both. The first level's scores for
    # the two channels are 1 and 0 (times a factor), their instance norm 1 and -1.
    attention = ChannelAttention([1, 1], heads=1, dropout=0.0)
    with torch.no_grad():
        for layer in (*attention.queries, *attention.out):
            layer.weight.fill_(1)
        for layer in (attention.key, attention.value):
            layer.weight.copy_(torch.eye(2))
    first, second = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    taken = attention([first, second], torch.cat([first, second], 2))
    high, low = torch.tensor([1.0, -1.0]).softmax(0).tolist()
    assert taken[0].flatten().tolist() == pytest.approx([high, low], abs=1e-4)
    assert taken[1].flatten().tolist() == pytest.approx([low, high], abs=1e-4)


def test_heads_have_full_width_and_are_averaged():
    one, two = ChannelAttention([2, 3], 1, 0.0), ChannelAttention([2, 3], 2, 0.0)
    two.load_state_dict({k: v if k.startswith("out") else torch.cat([v, v]) for k, v in one.state_dict().items()})
    levels = [torch.randn(2, 4, c, generator=torch.Generator().manual_seed(c)) for c in (2, 3)]
    for a, b in zip(one(levels, torch.cat(levels, 2)), two(levels, torch.cat(levels, 2)), strict=True):
        torch.testing.assert_close(a, b)


def test_every_fused_skip_has_seen_every_level():
    transformer = wiring(width=8).transformer
    shapes = [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    skips = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    before = transformer(skips)
    for level in range(4):
        other = [skip + (i == level) * skip.roll(1, 1) for i, skip in enumerate(skips)]
        after = transformer(other)
        moved = [(b - s - (a - t)).abs().max().item() for b, s, a, t in zip(before, skips, after, other, strict=True)]
        assert min(moved) > 1e-4


def test_positions_start_at_zero_and_tell_places_apart():
    transformer = wiring().transformer
    skips = [torch.ones(1, 2 << level, 32 >> level, 64 >> level) for level in range(4)]
    assert all(skip.std((2, 3)).max() < 1e-5 for skip in transformer(skips))
    with torch.no_grad():
        transformer.positions[3].grid.normal_(generator=torch.Generator().manual_seed(0))
    assert transformer(skips)[3].std((2, 3)).max() > 1e-3


def test_the_reconstruction_commutes_with_the_nearest_upsampling():
    layers = wiring().transformer.reconstructions[3]
    x = torch.randn(1, 16, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nearest(layers(x), 4), layers(nearest(x, 4)))


def test_the_gate_by_hand():
    gate = ChannelGate(2)
    with torch.no_grad():
        for layer in (gate.skip, gate.decoder):
            layer.weight.zero_()
            layer.bias.zero_()
        skip, decoder = torch.tensor([[[[4.0, -4.0]], [[8.0, 8.0]]]]), torch.zeros(1, 2, 1, 2)
        assert gate(skip, decoder).tolist() == [[[[2.0, 0.0]], [[4.0, 4.0]]]]  # sigmoid(0) = 1/2, then ReLU
        gate.decoder.weight[1, 0] = 1
        decoder[0, 0] = 2 * torch.log(torch.tensor(3.0))  # half of it has the sigmoid 3/4
        torch.testing.assert_close(gate(skip, decoder)[0, 1], torch.tensor([[6.0, 6.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"heads": 0}, "heads"), ({"position_grid": 0}, "position"), ({"dropout": 1.0}, "drop")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UCTransNetOptions.from_json(options)
