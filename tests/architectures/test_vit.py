import pytest
import torch

from overread.architectures.contract import count_parameters
from overread.architectures.vit import ViT, ViTOptions, as_rgb, as_square, official_name, standardised
from overread.errors import UserError

SMALL = ViTOptions(size="tiny", patch=16, depth=2)


def vit(options: ViTOptions = SMALL) -> ViT:
    torch.manual_seed(0)
    return ViT(options).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_parameters_are_those_of_dinos_networks():
    with torch.device("meta"):
        assert count_parameters(ViT(ViTOptions())) == 21_665_664
        assert count_parameters(ViT(ViTOptions(patch=8))) == 21_665_664 + (28**2 - 14**2) * 384 - 3 * 192 * 384
        assert count_parameters(ViT(ViTOptions(size="tiny"))) == 5_524_416


def test_official_names_are_those_of_dinos_files():
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layers = ["patch_embed.proj", *(f"blocks.{n}.{layer}" for n in range(12) for layer in block), "norm"]
    wanted = {"cls_token", "pos_embed"} | {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    with torch.device("meta"):
        names = [official_name(name) for name in ViT(ViTOptions()).state_dict()]
    assert set(names) == wanted
    assert len(names) == len(wanted) == 150


def test_rows_of_the_last_attention_sum_to_one():
    attention = vit().last_attention(images(2, 3, 48, 32))
    assert attention.shape == (2, 3, 7, 7)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 7))
    assert attention.min() >= 0


def test_maps_are_the_row_of_the_cls_token_over_the_patches():
    network, x = vit(), images(2, 3, 48, 32)
    maps = network.attention_maps(x)
    assert maps.shape == (2, 3, 3, 2)
    attention = network.last_attention(x)
    assert torch.equal(maps[1, 2, 1], attention[1, 2, 0, 3:5])  # the second row of patches: tokens 3 and 4
    torch.testing.assert_close(maps.sum((2, 3)), 1 - attention[:, :, 0, 0])


def test_the_last_attention_is_that_of_the_forward_pass():
    # the output of the last block, put together by hand from the weights that last_attention returns
    network, x = vit(), images(1, 3, 32, 32)
    tokens = network.encoder.blocks[0](network.tokens(x))
    last = network.encoder.blocks[1]
    values = last.attention.split(last.attention_norm(tokens))[2]
    mixed = (network.last_attention(x) @ values).transpose(1, 2).flatten(2)
    tokens = tokens + last.attention.out(mixed)
    tokens = tokens + last.mlp(last.mlp_norm(tokens))
    torch.testing.assert_close(network(x), network.encoder.norm(tokens)[:, 0], atol=1e-5, rtol=1e-4)


def test_positions_are_learned_for_224_and_interpolated_but_for_cls():
    network = vit()
    assert network.positions(14, 14) is network.pos_embed
    with torch.no_grad():
        network.pos_embed[:, 0] = 5.0
        network.pos_embed[:, 1:] = torch.arange(14.0).repeat(14)[None, :, None]  # the column of the patch
    found = network.positions(7, 28)
    assert found.shape == (1, 1 + 7 * 28, 192)
    assert (found[0, 0] == 5.0).all()
    rows = found[0, 1:, 0].reshape(7, 28)
    torch.testing.assert_close(rows, rows[:1].expand(7, 28))
    # columns 2 j and 2 j + 1 of 28 lie as far before and behind column j of 14
    torch.testing.assert_close(rows[0, 4:24].reshape(10, 2).mean(1), torch.arange(2.0, 12.0))


def test_norms_have_the_epsilon_of_dinos_code():
    assert {layer.eps for layer in vit().modules() if isinstance(layer, torch.nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("size", [(8, 16), (40, 32)])
def test_images_must_consist_of_whole_patches(size):
    with pytest.raises(UserError, match="one or more patches of 16 pixels"):
        vit()(torch.zeros(1, 3, *size))


def test_images_become_square_and_have_three_channels():
    x = images(1, 2, 6, 4)
    assert torch.equal(as_rgb(x)[0, 2], x[0].mean(0))
    grey, colour = images(2, 1, 4, 4), images(2, 3, 4, 4)
    assert torch.equal(as_rgb(grey), grey.repeat(1, 3, 1, 1))
    assert as_rgb(colour) is colour
    assert as_square(colour, 4) is colour
    assert as_square(x, 8).shape == (1, 2, 8, 8)
    checks = (torch.arange(16) % 2).float().expand(1, 1, 16, 16)  # one pixel wide: what shrinks is smoothed
    torch.testing.assert_close(as_square(checks, 4)[..., 1:3], torch.full((1, 1, 4, 2), 0.5))


@pytest.mark.parametrize(("options", "message"), [({"patch": 10}, "divide 224"), ({"depth": 0}, "depth")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ViTOptions.from_json(options)


def test_slices_are_standardised_by_channel():
    slices = torch.tensor([[[[0.0, 0.2], [0.4, 0.6]], [[0.7, 0.7], [0.7, 0.7]]]])
    found = standardised(slices)
    torch.testing.assert_close(found[0, 0], torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / 5**0.5)
    assert torch.equal(found[0, 1], torch.zeros(2, 2))  # flat
