from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from overread.architectures import build_segmenter
from overread.architectures.contract import Segmenter
from overread.confidence.segmentation_ability import binary_map
from overread.data.images import NativeImage
from overread.ensemble import features
from overread.ensemble.features import (
    case_sa,
    convolution_layers,
    mean_sa,
    record_layers,
    segmentation_ability,
    watch_layers,
)
from overread.ensemble.reader import MemberReader
from overread.errors import UserError
from overread.records import Batch, Member, TrialConfig
from overread.testing.architectures import toy_batch
from overread.testing.drawn import DrawnPackage, DrawnSegmenter, drawn_package
from overread.testing.tiny import TinyOptions, TinySegmenter
from overread.training.inference import predict_volume

SETTINGS: dict[str, Mapping[str, Any]] = {
    "unet": {"width": 4, "depth": 3},
    "unetmer": {"width": 4, "pools": 2, "scales": [1, 2], "heads": 2, "transformer_depth": 1, "position_grid": 4},
    "unet_sharp": {"width": 4, "level": 2, "deep_supervision": True},
}


def config_of(name: str, **changes: Any) -> TrialConfig:
    settings: dict[str, Any] = {"in_channels": 1, "classes": 3, "patch_size": (16, 16), "steps": 1}
    return TrialConfig(architecture=name, **({"options": dict(SETTINGS.get(name, {}))} | settings | changes))


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


class Known(TinySegmenter):
    """Features (x, -x); foreground where x > 3.5, almost surely; the background's logit is 0."""

    def __init__(self) -> None:
        super().__init__(TinyOptions(width=2), in_channels=1, classes=2)
        self.eval()
        with torch.no_grad():
            for layer, weight, bias in (
                (self.first, [[1.0], [-1.0]], [0.0, 0.0]),
                (self.head, [[0.0, 0.0], [100.0, 0.0]], [0.0, -350.0]),
            ):
                assert isinstance(layer, nn.Conv2d) and layer.bias is not None
                layer.weight.copy_(torch.tensor(weight)[..., None, None])
                layer.bias.copy_(torch.tensor(bias))


def known(values: list[list[float]], patch: tuple[int, int] = (1, 4), **options: Any) -> dict[str, float]:
    """Return the SA by layer of slices of one row each."""
    config = TrialConfig(architecture="tiny", options={}, in_channels=1, classes=2, patch_size=patch, steps=1)
    image = np.array(values, np.float32)[None, :, None]
    return dict(segmentation_ability(Known(), image, config, **options))


def test_layers_of_known_features_by_hand() -> None:
    # segmented: the first two. p+ = 4, p- = 1.5, so the features take the last voxel for foreground, too.
    found = known([[4, 4, 0, 3]])
    # the head: (0, 50), (0, 50), (0, -350), (0, -50): p+ = 50, p- = -200, nearer to p+ from -75 on: the last too
    assert found == pytest.approx({"input": 0.8, "first": 0.8, "head": 0.8, "logits": 1.0})


def test_reference_is_the_truth_and_the_segmentation_comes_last() -> None:
    truth = np.array([[[0, 2, 0, 1]]], np.uint8)  # both foreground classes count
    found = known([[4, 4, 0, 3]], reference=truth)
    expected = {"input": 0.8, "first": 0.8, "head": 0.8, "logits": 0.5, "segmentation": 0.5}
    assert list(found) == list(expected) and found == pytest.approx(expected)


def test_a_case_has_one_dice_over_its_slices() -> None:
    # slice 0 as above: 2 in common of 3 + 2; slice 1: p+ = 8, p- = 0: 1 in common of 1 + 1
    assert known([[4, 4, 0, 3], [8, 0, 0, 0]])["input"] == pytest.approx(2 * 3 / (5 + 2))


def test_padding_takes_no_part() -> None:
    # zeros beside the row would move p- and take the last voxel to the foreground
    row = [4.0, 4.0, 2.0, 3.0]  # p- = 2.5: nearer to 4 from 3.25 on
    assert known([row], (5, 9)) == pytest.approx(known([row])) and known([row])["input"] == 1


def test_only_valid_voxels_count() -> None:
    valid = np.array([[[True, True, True, False]]])
    assert known([[4, 4, 0, 3]], valid=valid) == pytest.approx({"input": 1.0, "first": 1.0, "head": 1.0, "logits": 1.0})


def test_masks_must_fit() -> None:
    with pytest.raises(UserError, match=r"reference must have the shape \(1, 1, 4\)"):
        known([[4, 4, 0, 3]], reference=np.zeros((1, 4), np.uint8))
    with pytest.raises(UserError, match="valid must have"):
        known([[4, 4, 0, 3]], valid=np.ones((1, 1, 3), bool))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_network_has_scores_for_every_unit(name: str) -> None:
    config = config_of(name)
    segmenter, image = build_segmenter(config).eval(), image_of(2, 13, 16)
    truth = (image[0] > 0.8).astype(np.uint8)
    found = segmentation_ability(segmenter, image, config, reference=truth)
    names = [layer for layer, _ in found]
    assert names[0] == "input" and names[-2:] == ["logits", "segmentation"]
    assert sorted(names[1:-2]) == sorted(convolution_layers(segmenter))
    assert all(0 <= score <= 1 for _, score in found)
    assert len({score for _, score in found}) > 3
    own = segmentation_ability(segmenter, image, config)
    assert [layer for layer, _ in own] == names[:-1]
    assert mean_sa(segmenter, image, config) == pytest.approx((own[-1][1] + own[-2][1]) / 2)


def test_units_of_a_unet_run_down_and_up() -> None:
    """Five levels would be 18 units, layers 1..18 of the paper's figure."""
    config = config_of("unet")
    found = segmentation_ability(build_segmenter(config).eval(), image_of(1, 16, 16), config)
    blocks = ["encoder.0", "encoder.1", "encoder.2", "decoder.1", "decoder.0"]
    units = [f"network.{block}.{unit}" for block in blocks for unit in (0, 1)]
    assert [layer for layer, _ in found] == ["input", *units, "logits"]


def test_volumes_are_read_whole_by_3d_networks() -> None:
    config = config_of("unet", spatial_dims=3, patch_size=(4, 8, 8))
    found = segmentation_ability(build_segmenter(config).eval(), image_of(3, 8, 7), config)
    assert len(found) == 12 and all(0 <= score <= 1 for _, score in found)


def test_a_feature_that_is_the_truth_has_a_score_of_one() -> None:
    truth = np.zeros((2, 9, 16), np.uint8)
    truth[0, 3:9, 4:11], truth[1, 5:, 2:6] = 1, 1
    config = config_of("tiny", options={}, classes=2)
    found = segmentation_ability(Known(), 4 * truth[None].astype(np.float32), config, reference=truth)
    assert [score for _, score in found] == [1.0] * 5


def test_patches_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = config_of("unetmer")
    segmenter, image = build_segmenter(config).eval(), image_of(2, 16, 16)
    with caplog.at_level(logging.WARNING):
        found = segmentation_ability(segmenter, image, config, variant=segmenter.variant("scale_2"))
    assert [layer for layer, _ in found] == ["input", "logits"]
    assert len(caplog.records) == 1  # not one per layer and slice
    message = caplog.records[0].getMessage()
    assert message.startswith("10 layers are left out") and "network.backbone.encoder.0.0 (4, 4, 8, 8), " in message


def test_mean_sa_needs_its_layers() -> None:
    config = config_of("unetmer", options={**SETTINGS["unetmer"], "scales": [2]})
    with pytest.raises(UserError, match=r"the last 1\.\.1 layers of this network, but got 2"):
        mean_sa(build_segmenter(config).eval(), image_of(1, 16, 16), config)


def test_mean_sa_compares_its_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config, compared = config_of("unet"), list[tuple[int, ...]]()

    def counted(maps: np.ndarray, *others: Any) -> np.ndarray:
        compared.append(maps.shape)
        return binary_map(maps, *others)

    monkeypatch.setattr(features, "binary_map", counted)
    mean_sa(build_segmenter(config).eval(), image_of(1, 16, 16), config)
    assert compared == [(4, 16, 16), (3, 16, 16)]  # the last of ten units, and the logits of three classes


def test_mean_sa_is_of_the_reading_that_votes() -> None:
    config, image = config_of("unetmer"), image_of(1, 16, 16)
    segmenter = build_segmenter(config).eval()
    assert mean_sa(segmenter, image, config, variant=segmenter.variant("scale_1")) == mean_sa(segmenter, image, config)
    with pytest.raises(UserError, match=r"the last 1\.\.1 layers"):
        mean_sa(segmenter, image, config, variant=segmenter.variant("scale_2"))


class Broken(Known):
    def logits(self, images: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


class KnownPackage(DrawnPackage):
    """A package of networks by member name."""

    def __init__(self, *weights: float, **networks: Segmenter) -> None:
        drawn = {name: {"main": np.zeros((2, 1, 4))} for name in networks}
        given = drawn_package((1, 4), ("background", "organ"), drawn, weights=dict(zip(drawn, weights, strict=True)))
        super().__init__(given.manifest, drawn)
        self.networks = networks

    def segmenter(self, member: Member, device: torch.device | str = "cpu") -> Segmenter:
        return self.networks[member.name]

    def sa(self, values: list[float], *failed: str) -> float | None:
        """Return the SA of a case whose prepared image is one row."""
        native = NativeImage(np.ones((1, 1, 4), np.float32), None, None, "uint8", ".png")
        reader = MemberReader(self, native, "cpu")
        reader.image = np.array(values, np.float32)[None, None, None]
        return case_sa(reader, failed)


def test_the_sa_of_a_case_is_that_of_the_heaviest_network_that_read_it() -> None:
    # by hand above: head 0.8 and logits 1; the second network has neither
    package = KnownPackage(1.0, 2.0, 1.0, a=Known(), b=DrawnSegmenter({}), c=Broken())
    assert package.sa([4, 4, 0, 3], "b") == pytest.approx(0.9)  # of equal weight the first
    assert package.sa([4, 4, 0, 3], "a", "b", "c") is None
    assert KnownPackage(1.0, 2.0, a=DrawnSegmenter({}), b=Known()).sa([4, 4, 0, 3]) == pytest.approx(0.9)
    of_class = replace(package.manifest.members[0], class_weights=(0.5, 3.0))
    package.manifest = replace(package.manifest, members=(of_class, *package.manifest.members[1:]))
    assert package.sa([4, 4, 0, 3]) == pytest.approx(0.9)


def test_nothing_segmented_is_nothing_to_agree_with() -> None:
    package = KnownPackage(1.0, a=Known())
    # 3.5 is a tie, and so background, but nearer to a foreground of one half than the others in every layer
    assert package.sa([1, 1, 0, 3.5]) == 0.0
    assert package.sa([0, 0, 0, 0]) is None
    config = config_of("tiny", options={}, classes=2, patch_size=(1, 4))
    assert mean_sa(Known(), np.zeros((1, 1, 1, 4), np.float32), config) == 1.0


def test_a_network_without_sa_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    drawn = DrawnSegmenter({"main": np.full((2, 1, 4), 0.5)})
    for network, passes, why in ((Broken(), 2, "RuntimeError: out of memory"), (drawn, 1, "the last 1..1 layers")):
        package = KnownPackage(1.0, a=network)
        with caplog.at_level(logging.WARNING), patch.object(features, "predict_volume", wraps=predict_volume) as reads:
            assert package.sa([4, 4, 0, 3]) is package.sa([4, 4, 0, 2]) is None
        assert reads.call_count == passes  # what the network lacks, no other case brings
        (message,) = (record.getMessage() for record in caplog.records)
        assert message.startswith("sa_mean of member a is left out: ") and why in message
        caplog.clear()


class Twice(Known):
    """Runs its first layer twice, the second time on doubled images; later layers change maps in place."""

    def logits(self, images: Tensor) -> Tensor:
        first = self.first(images)
        return self.head(first.mul_(0) + self.first(2 * images))


def tiny_batch() -> Batch:
    return toy_batch((4, 4), classes=2)


def test_each_run_of_a_layer_is_a_layer() -> None:
    network, batch = Twice(), tiny_batch()
    with record_layers(network) as maps:
        network.read(batch)
    assert list(maps) == ["first", "first#2", "head"]
    assert torch.equal(maps["first"][:, :1], batch.images)  # as it was before it changed
    assert torch.equal(maps["first#2"], 2 * maps["first"])
    assert not maps["head"].requires_grad


def test_watched_maps_have_gradients() -> None:
    network, batch = TinySegmenter(TinyOptions(), in_channels=1, classes=2), tiny_batch()
    seen: list[Tensor] = []
    with watch_layers(network, lambda name, output: seen.append(output), ["norm"]):
        readings = network.read(batch)
    gradient = torch.autograd.grad(readings.probabilities[:, 1].sum(), seen[0])[0]
    assert gradient.shape == (3, 4, 4, 4) and gradient.abs().sum() > 0


def test_hooks_are_gone_afterwards() -> None:
    network = Known()
    with pytest.raises(RuntimeError, match="stop"), record_layers(network):
        raise RuntimeError("stop")
    assert not network.first._forward_hooks
    with pytest.raises(UserError, match=r"unknown layer 'last': choose one of first, head, norm"):
        segmentation_ability(network, image_of(1, 4, 4), config_of("tiny", classes=2), layers=["first", "last"])
    assert not network.first._forward_hooks


def test_a_layer_must_give_one_map() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    network = Known()
    network.pair = Pair()
    with (
        pytest.raises(UserError, match="layer 'pair' must give one map, but gave tuple"),
        record_layers(network, ["pair"]),
    ):
        network.pair(torch.zeros(1))


def test_without_units_the_convolutions_inside_networks_are_the_layers() -> None:
    segmenter: Segmenter = build_segmenter(config_of("unet"))
    for module in segmenter.modules():  # the same network of plain layers
        for name, child in list(module.named_children()):
            if type(child).__name__ == "ConvUnit":
                setattr(module, name, nn.Sequential(*child.children()))
    names = convolution_layers(segmenter)
    assert len(names) == 10 and "network.encoder.0.0.0" in names and "head" not in names
    assert convolution_layers(Known()) == ("first", "head")
