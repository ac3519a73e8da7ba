# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.transunet import (
    CascadedUpsampler,
    TransUNet,
    TransUNetOptions,
    VisionTransformer,
    upsampler_widths,
)
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 4, "units": [1, 1, 1], "transformer_depth": 1, "position_grid": 2}


def count(in_channels: int = 3, classes: int = 9, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["transunet"].build(options, in_channels=in_channels, classes=classes))


def wiring(**options: object) -> TransUNet:
    torch.manual_seed(0)
    return TransUNet(TransUNetOptions.from_json(SMALL | options), in_channels=1).eval()


class TestTransUNet(ArchitectureContract):
    name = "transunet"
    options = SMALL
    size = (32, 48)


class TestTransUNetWithoutSkips(ArchitectureContract):
    name = "transunet"
    options = SMALL | {"width": 12, "skips": 0, "dropout": 0.0, "mlp_ratio": 2}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 16)
    classes = 4


class TestViTCup(ArchitectureContract):
    name = "transunet"
    options = {"width": 4, "encoder": "vit", "skips": 0, "transformer_depth": 1, "position_grid": 2}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 48)


class TestViT(ArchitectureContract):
    name = "transunet"
    options = TestViTCup.options | {"upsampler": "bilinear"}
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 16)

    def test_the_head_before_the_upsampling_gives_what_it_would_after(self):
        segmenter, images = self.ready(), self.batch().images
        with torch.no_grad():
            torch.testing.assert_close(segmenter.logits(images), segmenter.head(segmenter.network(images)))


def test_parameters_are_those_of_the_released_code():
    entry = ARCHITECTURES["transunet"]
    assert entry.published_parameters() == count() == 105_277_081
    assert count(classes=2) == 105_276_066
    assert count(in_channels=1) == 105_277_081 - 2 * 49 * 64
    without = 9 * (512 * 256 + 256 * 128 + 64 * 64)  # what the first convolution of a step takes from the skips
    assert entry.published_parameters("r50_vit") == 105_277_081 - without == 103_765_657
    patches = 16 * 16 * 3 * 768 + 768  # embedding
    tokens = patches + 14 * 14 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768  # positions, blocks, last norm
    assert entry.published_parameters("vit") == tokens + 768 * 9 + 9 == 85_804_041
    assert entry.published_parameters("vit_cup") == 91_674_201
    assert count(position_grid=16) == 105_277_081 + (16**2 - 14**2) * 768


def test_the_width_scales_everything():
    assert upsampler_widths(64) == (512, 256, 128, 64, 16)
    assert upsampler_widths(8) == (64, 32, 16, 8, 4)
    for width in (4, 5, 12, 24):
        assert wiring(width=width)(torch.zeros(1, 1, 16, 16)).shape == (1, max(width // 4, 4), 16, 16)


def test_channels_and_sizes_of_the_halves():
    network = wiring(width=8)
    skips, bottom = network.encode(torch.zeros(1, 1, 32, 48))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(8, 16, 24), (32, 8, 12), (64, 4, 6)]
    assert bottom.shape == (1, network.bottom_channels, 2, 3)
    assert network.bottom_channels == 96


@pytest.mark.parametrize("skips", [0, 1, 2, 3])
def test_the_coarsest_skips_are_kept_and_each_is_read(skips):
    network = wiring(skips=skips)
    maps, bottom = network.encode(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert [x.shape[2] for x in maps] == [16, 8, 4][3 - skips :]
    before = network.decode(maps, bottom)
    assert before.shape == (1, 4, 32, 32)
    for level in range(skips):
        changed = [x + 1 if i == level else x for i, x in enumerate(maps)]
        assert (network.decode(changed, bottom) - before).abs().max() > 1e-3


def test_the_upsampler_without_skips_is_plain_bilinear_upsampling():
    upsampler = CascadedUpsampler(2, (3, 3, 3)).eval()
    for layer in upsampler.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.dirac_(layer.weight)
    x = torch.tensor([[[[0.0, 3.0]], [[6.0, 6.0]]]])
    found = upsampler(x, [])
    assert found.shape == (1, 3, 4, 8)
    # corners stay, twice: 0, 1, 2, 3 and then sevenths of 3
    torch.testing.assert_close(found[0, 0, 0], torch.arange(8) * 3 / 7, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0, 1:, 0, 0], torch.tensor([6.0, 0.0]), atol=1e-3, rtol=0)


def test_tokens_know_their_place_and_each_other():
    torch.manual_seed(0)
    transformer = VisionTransformer(3, 8, depth=1, patch=2, position_grid=2).eval()
    x = torch.ones(1, 3, 4, 8)
    assert transformer(x).shape == (1, 8, 2, 4)
    assert transformer(x).std((2, 3)).min() > 1e-3
    with torch.no_grad():
        transformer.position.grid.zero_()
    assert transformer(x).std((2, 3)).max() < 1e-5
    before = transformer(x)
    x[..., :2, :2] = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    assert (transformer(x) - before)[..., 1, 3].abs().max() > 1e-5


def test_dropout_acts_in_training_only():
    network = wiring(dropout=0.5)
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network(x))
    network.transformer.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 3}, "width"),
        ({"units": [3, 0, 9]}, "units"),
        ({"units": [3, 4]}, "units"),
        ({"transformer_depth": 0}, "transformer_depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"skips": 4}, "skips"),
        ({"encoder": "vit"}, "set skips to 0"),
        ({"upsampler": "bilinear", "skips": 1}, "set skips to 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TransUNetOptions.from_json(options)
