import pytest
import torch

from overread.architectures.contract import count_parameters
from overread.architectures.transformer import Attention, Block, Encoder, PositionGrid, heads_of, initialise_linear
from overread.errors import UserError


@pytest.mark.parametrize("width", [8, 64])
def test_a_block_has_12_d_squared_and_13_d_parameters(width):
    assert count_parameters(Block(width, heads=4)) == 12 * width**2 + 13 * width


def test_a_head_has_64_channels_or_the_next_more_that_divide_the_width():
    assert [heads_of(12 * width) for width in (64, 48, 32, 16, 8, 4)] == [12, 9, 6, 3, 1, 1]
    assert heads_of(130) == 2
    assert heads_of(5 * 41) == 1  # 3 does not divide it, nor does 2
    assert [heads_of(96 << stage, 32) for stage in range(4)] == [3, 6, 12, 24]


def test_another_attention_takes_the_place_of_the_plain_one():
    other = Attention(8, heads=1)
    block = Block(8, heads=4, attention=other)
    assert block.attention is other
    assert count_parameters(block) == count_parameters(Block(8, heads=4))


def test_linear_layers_start_small_and_without_bias():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.Linear(200, 2, bias=False))
    initialise_linear(layers)
    assert layers[0].bias.abs().max() == 0
    assert layers[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert layers[1].weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_encoder_of_the_fact_sheet():
    with torch.device("meta"):
        for width, expected in ((512, 19_046_400), (1024, 75_841_536)):
            count = count_parameters(Encoder(width, depth=6, heads=8)) + count_parameters(PositionGrid(width, 16))
            assert count == expected


def test_attention_is_the_weighted_mean_of_the_values():
    attention = Attention(8, heads=2).eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    weights = attention.weights(x)
    assert weights.shape == (2, 2, 5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))
    values = attention.split(x)[2]
    expected = attention.out((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)


def test_the_encoder_does_not_know_the_order_of_tokens():
    encoder = Encoder(8, depth=2, heads=2)
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(encoder(x)[:, order], encoder(x[:, order]))


def test_positions_are_interpolated_to_other_sizes_only():
    grid = PositionGrid(4, side=4)
    assert grid((4, 4)) is grid.grid
    with torch.no_grad():
        grid.grid.fill_(2.0)
    torch.testing.assert_close(grid((6, 3)), torch.full((1, 4, 6, 3), 2.0))


def test_positions_of_volumes_are_interpolated_linearly():
    grid = PositionGrid(3, side=2, spatial_dims=3)
    assert grid((2, 2, 2)) is grid.grid
    with torch.no_grad():
        grid.grid.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(1, 3, 2, 2, 2))
    found = grid((4, 1, 2))
    assert found.shape == (1, 3, 4, 1, 2)
    torch.testing.assert_close(found[0, 0, :, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="multiple of the heads"):
        Attention(10, heads=4)


def test_dropout_acts_in_training_only_and_changes_no_name():
    torch.manual_seed(0)
    plain, dropping = Encoder(8, depth=2, heads=2), Encoder(8, depth=2, heads=2, dropout=0.5)
    assert {"blocks.0.mlp.0.weight", "blocks.0.mlp.2.weight"} <= set(plain.state_dict())
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(x), dropping.eval()(x))
    assert not torch.equal(plain(x), dropping.train()(x))
