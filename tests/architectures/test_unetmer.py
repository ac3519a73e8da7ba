# ruff: noqa: RUF012  (settings of a contract suite are constants)
from dataclasses import replace

import pytest
import torch

from overread.architectures import ARCHITECTURES, build_encoder_decoder, count_parameters
from overread.architectures.unetmer import (
    UNetmer,
    UNetmerOptions,
    UNetmerSegmenter,
    from_patches,
    to_patches,
)
from overread.errors import UserError
from overread.records import MAIN, Variant
from overread.testing.architectures import ArchitectureContract, toy_batch

SMALL = {"width": 4, "pools": 2, "transformer_depth": 2, "heads": 2, "position_grid": 4}


def count(**options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["unetmer"].build(options, in_channels=1, classes=2))


def wiring(options: UNetmerOptions) -> UNetmer:
    return UNetmer(options, in_channels=1).eval()


class TestUNetmer(ArchitectureContract):
    name = "unetmer"
    options = SMALL | {"scales": [1, 2, 4]}
    size = (16, 32)


class TestUNetmerAlone(ArchitectureContract):
    name = "unetmer"
    options = SMALL | {"scales": [2], "use_transformer": False}
    losses = {"dice": 1.0}
    size = (16, 16)
    classes = 4


def test_parameters_are_those_of_the_fact_sheet_and_do_not_depend_on_the_scales():
    assert ARCHITECTURES["unetmer"].published_parameters() == 31_042_434 + 75_841_536
    assert count(width=32) == 7_765_442 + 19_046_400
    assert count(scales=[1]) == count(scales=[1, 2, 4, 8]) == 106_883_970
    assert count(use_transformer=False) == 31_042_434


def test_patches_are_row_major():
    x = torch.arange(16).reshape(1, 1, 4, 4)
    patches = to_patches(x, 2)
    assert patches.shape == (4, 1, 2, 2)
    assert patches[:, 0].tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_stitching_undoes_cutting(scale):
    x = torch.randn(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(from_patches(to_patches(x, scale), scale), x)
    assert to_patches(x, scale).shape == (3 * scale**2, 2, 16 // scale, 24 // scale)


def test_the_number_of_tokens_does_not_depend_on_the_scale():
    network = wiring(UNetmerOptions(**(SMALL | {"scales": (1, 2, 4)})))
    seen: list[tuple[int, ...]] = []
    network.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    for scale in (1, 2, 4):
        network.features(torch.zeros(2, 1, 32, 16), Variant(name="s", options={"scale": scale}))
    assert seen == [(2, 32 * 16 // 4**2, 16)] * 3


def test_tokens_stand_in_the_raster_order_of_the_image_at_every_scale():
    # In the middle of each of the 2 x 2 patches no border is seen: tokens must agree there between the scales.
    network = wiring(UNetmerOptions(**(SMALL | {"scales": (1, 2)})))
    tokens: list[torch.Tensor] = []
    network.transformer.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    x = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    for scale in (1, 2):
        network.features(x, Variant(name="s", options={"scale": scale}))
    whole, cut = (t.reshape(32, 32, -1)[7:9, 23:25] for t in tokens)
    torch.testing.assert_close(whole, cut, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(*(t.reshape(32, 32, -1)[:, 15:17] for t in tokens), atol=1e-3)


def test_the_backbone_is_any_registered_encoder_and_decoder():
    options = UNetmerOptions(**(SMALL | {"use_transformer": False, "scales": (1,)}))
    network = wiring(options)
    backbone = ARCHITECTURES["unet"].build_network({"width": 4, "depth": 3}, in_channels=1)
    backbone.load_state_dict(network.backbone.state_dict())
    x = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), backbone.eval()(x))
    with pytest.raises(UserError, match="'unetmer' is not"):
        build_encoder_decoder("unetmer", SMALL, in_channels=1)
    with pytest.raises(UserError, match="unknown architecture 'bogus'"):
        wiring(replace(options, backbone="bogus"))


@pytest.mark.parametrize("use_transformer", [False, True])
def test_only_the_transformer_lets_patches_see_each_other(use_transformer):
    options = UNetmerOptions(**(SMALL | {"scales": (2,), "use_transformer": use_transformer}))
    network = wiring(options)
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., :8, :8] += 1  # patch 0
    differs = [
        not torch.allclose(*pair)
        for pair in zip(to_patches(network(x), 2), to_patches(network(changed), 2), strict=True)
    ]
    assert differs == [True, *[use_transformer] * 3]


def test_parts_are_the_scales_and_their_losses_add_up_to_the_mean():
    def build(*scales: int) -> UNetmerSegmenter:
        torch.manual_seed(0)
        options = UNetmerOptions(**(SMALL | {"scales": scales}))
        return UNetmerSegmenter(options, in_channels=1, classes=3).eval()

    batch = toy_batch((16, 16))
    both, first, second = build(1, 2), build(1), build(2)
    total = both(batch, 0)["loss"] + both(batch, 1)["loss"]
    torch.testing.assert_close(total, (first(batch)["loss"] + second(batch)["loss"]) / 2)
    torch.testing.assert_close(both(batch, 1)["ce_scale_2"], second(batch)["loss"].detach())


def test_variants_and_alternatives_are_the_scales():
    options = UNetmerOptions(**(SMALL | {"scales": (2, 4)}))
    segmenter = UNetmerSegmenter(options, in_channels=1, classes=3).eval()
    assert [v.name for v in segmenter.variants()] == [MAIN, "scale_2", "scale_4"]
    assert segmenter.variants()[0].options == {"scale": 2}
    assert segmenter.needs.size_multiple == 16
    assert segmenter.relation_sets() == {"c_24": ("scale_2", "scale_4")}
    batch = toy_batch((16, 16))
    readings = segmenter.read(batch)
    alternatives = dict(readings.alternatives())
    assert list(alternatives) == ["scale_2", "scale_4"]
    assert torch.equal(alternatives["scale_2"], readings.probabilities)
    assert torch.equal(alternatives["scale_4"], segmenter.read(batch, variant=segmenter.variants()[2]).probabilities)
    assert not torch.allclose(alternatives["scale_4"], readings.probabilities)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": [1, 3]}, r"out of \[1, 2, 4, 8\], but got \[1, 3\]"),
        ({"scales": []}, "scales"),
        ({"scales": [2, 1]}, "ascending"),
        ({"width": 3, "pools": 1}, "multiple of heads, but got 6 and 8"),
        ({"transformer_depth": 0}, "transformer_depth"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UNetmerOptions.from_json(options)
