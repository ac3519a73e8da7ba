from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from overread.architectures.contract import Segmenter, build_segmenter
from overread.errors import UserError
from overread.records import Batch, Readings, TrialConfig, Variant
from overread.testing.tiny import TinyOptions, TinySegmenter, tiny_config
from overread.training.checkpoint import save_weights
from overread.training.inference import (
    gaussian_window,
    load_segmenter,
    pad_amounts,
    predict_alternatives,
    predict_readings,
    predict_volume,
    window_starts,
)


class AnchoredSegmenter(TinySegmenter):
    """Says for every voxel that the mean of the anchors' images is the probability of the foreground."""

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        assert anchors is not None
        foreground = anchors.images.mean().expand(len(batch.images), 1, *batch.images.shape[2:])
        read = torch.cat([1 - foreground, foreground], 1)
        return Readings(probabilities=read, alternatives=lambda: iter([("same", read)]))


VOLUME = {"spatial_dims": 3, "patch_size": (4, 8, 8)}


def network(config: TrialConfig) -> Segmenter:
    return build_segmenter(config).eval()


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def whole(segmenter: Segmenter, volume: np.ndarray) -> np.ndarray:
    """Return (K, D, H, W) of one plain forward: slices as samples in 2-D, the volume as one sample in 3-D."""
    tensor = torch.from_numpy(volume)
    is_2d = isinstance(segmenter.head, torch.nn.Conv2d)
    images = tensor.transpose(0, 1) if is_2d else tensor[None]
    empty = torch.zeros(len(images), 0)
    with torch.no_grad():
        result = segmenter.read(Batch(images=images, labels=empty, valid=empty.bool())).probabilities
    return (result.transpose(0, 1) if is_2d else result[0]).numpy()


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({}, (7, 8, 8)), (VOLUME, (4, 8, 8)), ({"batch_size": 2}, (5, 8, 8))],  # one window in a slice or volume
)
def test_one_window_is_the_whole_image(changes: dict[str, object], shape: tuple[int, ...]) -> None:
    config = tiny_config(options={"kernel": 3}, **changes)
    segmenter, volume = network(config), image(*shape)
    result = predict_volume(segmenter, volume, config, None, "cpu")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, whole(segmenter, volume), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({}, (3, 21, 13)), (VOLUME, (9, 19, 8)), (VOLUME, (3, 5, 30)), ({}, (2, 5, 3))],
)
def test_sliding_windows_of_a_pointwise_network_equal_the_whole_image(
    changes: dict[str, object], shape: tuple[int, ...]
) -> None:
    """A 1x1 network sees no neighbours, so any stitching error would show."""
    config = tiny_config(**changes)
    segmenter, volume = network(config), image(*shape)
    result = predict_volume(segmenter, volume, config, None, "cpu")
    np.testing.assert_allclose(result, whole(segmenter, volume), atol=1e-6)


def test_window_is_rounded_up_to_the_size_multiple() -> None:
    config = tiny_config(options={"size_multiple": 6})
    segmenter, volume = network(config), image(2, 8, 8)
    seen: list[torch.Size] = []
    segmenter.first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))  # type: ignore[operator,union-attr]
    result = predict_volume(segmenter, volume, config, None, "cpu")
    assert seen == [torch.Size([2, 1, 12, 12])]
    np.testing.assert_allclose(result, whole(segmenter, volume), atol=1e-6)


def test_variant_and_alternatives_are_stitched_one_by_one() -> None:
    config = tiny_config(**VOLUME)
    segmenter, volume = network(config), image(6, 12, 20)
    main = predict_volume(segmenter, volume, config, None, "cpu")
    sharp = predict_volume(segmenter, volume, config, segmenter.variant("sharp"), "cpu")
    found = dict(predict_alternatives(segmenter, volume, config, None, "cpu"))
    assert list(found) == ["factor_1", "factor_2"]
    np.testing.assert_allclose(found["factor_1"], main, atol=1e-6)
    np.testing.assert_allclose(found["factor_2"], sharp, atol=1e-6)
    assert np.abs(main - sharp).max() > 1e-3
    np.testing.assert_allclose(main.sum(0), 1.0, atol=1e-5)
    together = dict(predict_readings(segmenter, volume, config, "cpu"))
    assert list(together) == ["main", *found] and np.array_equal(together["main"], main)
    assert all(np.array_equal(together[name], found[name]) for name in found)


def test_image_of_the_wrong_shape_is_refused() -> None:
    config = tiny_config()
    with pytest.raises(UserError, match=r"must be \(1, D, H, W\)"):
        predict_volume(network(config), image(2, 8, 8)[0], config, None, "cpu")


def test_load_segmenter_reads_as_the_saved_one(tmp_path: Path) -> None:
    config, volume = tiny_config(seed=5), image(2, 8, 8)
    segmenter = network(tiny_config(seed=6))
    save_weights(tmp_path / "w.safetensors", segmenter)
    loaded = load_segmenter(config, tmp_path / "w.safetensors", "cpu")
    assert not loaded.training
    expected = predict_volume(segmenter, volume, config, None, "cpu")
    assert np.array_equal(predict_volume(loaded, volume, config, None, "cpu"), expected)


@pytest.mark.parametrize(
    ("size", "window", "starts"), [(8, 8, [0]), (9, 8, [0, 1]), (12, 8, [0, 4]), (13, 8, [0, 2, 5]), (16, 8, [0, 4, 8])]
)
def test_window_starts_cover_with_half_overlap(size: int, window: int, starts: list[int]) -> None:
    assert window_starts(size, window) == starts


def test_padding_and_gaussian() -> None:
    assert pad_amounts((3, 5, 9), (8, 8)) == [(0, 0), (1, 2), (0, 0)]
    assert pad_amounts((3, 5, 9), (4, 8, 8)) == [(0, 1), (1, 2), (0, 0)]
    window = gaussian_window((5, 9))
    assert window.shape == (5, 9)
    assert float(window[2, 4]) == 1.0
    # one sigma = 9/8 voxels along the second axis
    assert float(window[2, 5]) == pytest.approx(np.exp(-0.5 * (8 / 9) ** 2), rel=1e-5)
    assert float(window.min()) == pytest.approx(1e-3)


def test_anchors_reach_every_read() -> None:
    segmenter = AnchoredSegmenter(TinyOptions(), in_channels=1, classes=2).eval()
    images = torch.tensor([0.1, 0.5]).reshape(2, 1, 1, 1)
    anchors = Batch(images=images, labels=torch.zeros(2, 0, 1, 1), valid=torch.zeros(2, 0, dtype=torch.bool))
    config, volume = tiny_config(batch_size=2), image(3, 8, 20)
    main = predict_volume(segmenter, volume, config, None, "cpu", anchors=anchors)
    found = dict(predict_alternatives(segmenter, volume, config, None, "cpu", anchors=anchors))
    np.testing.assert_allclose(main[1], np.full((3, 8, 20), 0.3), rtol=1e-5)
    np.testing.assert_allclose(found["same"], main)


def test_reading_whole_cases_needs_no_gradients() -> None:
    seen: list[bool] = []
    segmenter = network(tiny_config())
    segmenter.first.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))  # type: ignore[operator,union-attr]
    predict_volume(segmenter, image(2, 8, 8), tiny_config(), None, "cpu")
    assert list(predict_alternatives(segmenter, image(2, 8, 8), tiny_config(), None, "cpu"))
    assert seen == [False, False]
