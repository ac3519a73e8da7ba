# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math
from dataclasses import replace

import pytest
import torch

from overread.architectures import ARCHITECTURES, build_encoder_decoder, count_parameters
from overread.architectures.unetmer import (
    UNetmer,
    UNetmerOptions,
    UNetmerSegmenter,
    backbones,
    from_patches,
    to_patches,
)
from overread.errors import UserError
from overread.records import MAIN, Variant
from overread.testing.architectures import ArchitectureContract, toy_batch

SMALL = {"width": 4, "pools": 2, "transformer_depth": 2, "heads": 2, "position_grid": 4}
TINY = {"width": 4, "pools": 1, "transformer_depth": 1, "heads": 2, "position_grid": 2, "scales": [1, 2]}
BACKBONES = {"unet": 31_042_434, "attention_unet": 34_877_486, "unet_plus_plus": 36_628_546}
"""The published backbones and their parameters for one channel and two classes."""


def count(**options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["unetmer"].build(options, in_channels=1, classes=2))


def wiring(options: UNetmerOptions, spatial_dims: int = 2) -> UNetmer:
    return UNetmer(options, in_channels=1, spatial_dims=spatial_dims).eval()


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


class TestUNetmerVolumes(ArchitectureContract):
    name = "unetmer"
    options = TINY
    # PyTorch 2.13 on CPUs: the bf16 weight gradient of a channels-last Conv3d is wrong where the first axis is 2, hence
    # 3 in the smallest map of a patch.
    size = (12, 12, 16)
    in_channels = 1


class TestAttentionUNetmer(ArchitectureContract):
    name = "unetmer"
    options = TINY | {"backbone": "attention_unet"}
    size = (8, 12)


class TestUNetmerPlusPlus(ArchitectureContract):
    name = "unetmer"
    options = TINY | {"backbone": "unet_plus_plus", "pools": 2}
    size = (8, 16)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_brings_its_parameters_to_those_of_the_transformer(backbone):
    assert count(backbone=backbone) == BACKBONES[backbone] + 75_841_536
    assert count(backbone=backbone, use_transformer=False) == BACKBONES[backbone]


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


def test_patches_of_volumes_are_row_major():
    patches = to_patches(torch.arange(64).reshape(1, 1, 4, 4, 4), 2)
    assert patches.shape == (8, 1, 2, 2, 2)
    first = [[[0, 1], [4, 5]], [[16, 17], [20, 21]]]
    assert patches[0, 0].tolist() == first
    starts = [0, 2, 8, 10, 32, 34, 40, 42]
    assert torch.equal(patches[:, 0], torch.tensor(first) + torch.tensor(starts).reshape(8, 1, 1, 1))


@pytest.mark.parametrize("sizes", [(16, 24), (16, 8, 24)])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_stitching_undoes_cutting(scale, sizes):
    x = torch.randn(3, 2, *sizes, generator=torch.Generator().manual_seed(0))
    assert torch.equal(from_patches(to_patches(x, scale), scale), x)
    assert to_patches(x, scale).shape == (3 * scale ** len(sizes), 2, *(size // scale for size in sizes))


@pytest.mark.parametrize("sizes", [(32, 16), (16, 16, 32)])
def test_the_number_of_tokens_does_not_depend_on_the_scale(sizes):
    network = wiring(UNetmerOptions(**(SMALL | {"scales": (1, 2, 4)})), len(sizes))
    seen: list[tuple[int, ...]] = []
    network.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    for scale in (1, 2, 4):
        network.features(torch.zeros(2, 1, *sizes), Variant(name="s", options={"scale": scale}))
    assert seen == [(2, math.prod(size // 4 for size in sizes), 16)] * 3


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


def test_tokens_of_a_volume_stand_in_its_raster_order_at_every_scale():
    # With one pool a token sees 7 voxels around it: the two in the middle of a patch of 16 see no border.
    network = wiring(UNetmerOptions(**(TINY | {"scales": (1, 2)})), 3)
    tokens: list[torch.Tensor] = []
    network.transformer.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    x = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    for scale in (1, 2):
        network.features(x, Variant(name="s", options={"scale": scale}))
    whole, cut = (t.reshape(16, 16, 16, -1) for t in tokens)
    middle = (slice(3, 5), slice(11, 13), slice(3, 5))
    torch.testing.assert_close(whole[middle], cut[middle], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole[7:9], cut[7:9], atol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_transformer_and_cutting_the_backbone_is_left(backbone):
    network = wiring(UNetmerOptions(**(SMALL | {"backbone": backbone, "use_transformer": False, "scales": (1,)})))
    alone = ARCHITECTURES[backbone].build_network({"width": 4, "depth": 3}, in_channels=1)
    alone.load_state_dict(network.backbone.state_dict())
    x = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), alone.eval()(x))


def test_the_backbone_is_any_registered_encoder_and_decoder_with_a_width_and_a_depth():
    assert set(backbones()) >= set(BACKBONES)
    assert not set(backbones()) & {"unetmer", "unet_sharp"}
    for name in ("bogus", "unet_sharp"):
        with pytest.raises(UserError, match=f"unknown backbone '{name}': choose one of .*unet_plus_plus"):
            wiring(UNetmerOptions(backbone=name))
    with pytest.raises(UserError, match="'unetmer' is not"):
        build_encoder_decoder("unetmer", SMALL, in_channels=1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("use_transformer", [False, True])
def test_only_the_transformer_lets_patches_see_each_other(use_transformer, backbone):
    options = UNetmerOptions(
        **(SMALL | {"scales": (2,), "use_transformer": use_transformer, "backbone": backbone}),
    )
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
    with_whole = UNetmerSegmenter(replace(options, scales=(1, 2, 4)), in_channels=1, classes=3)
    assert list(with_whole.relation_sets()) == ["c_12", "c_14", "c_24"]
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
