"""What the viewer gets of a case, decoded again as the page does."""

from __future__ import annotations

import base64
import io
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from overread.review.views import PICTURE_SIDE, SLICE_SIDE, VOLUME_SIDE, CaseView, Sampled, case_view, sample_places


def layer(sampled: Sampled, index: int) -> np.ndarray:
    codes = np.frombuffer(zlib.decompress(base64.b64decode(sampled.codes)), f"<u{sampled.bytes_per_code}")
    return np.array(sampled.table)[codes][:, index].reshape(sampled.shape)


def image(sampled: Sampled) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(sampled.image))) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "L")
        return np.asarray(picture).reshape(sampled.shape)


def viewed(image: np.ndarray, layers: dict[str, np.ndarray], **options: Any) -> CaseView:
    """Return the view whose key slice is that of the given layers."""
    foreground = np.logical_or.reduce([mask > 0 for mask in layers.values()])
    return case_view(image, layers.items(), foreground=foreground, **options)


def masks(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 4, shape).astype(np.uint8) for name in ("prediction", "a", "b")}


def test_every_layer_comes_back_exactly() -> None:
    layers, truth = masks((6, 5, 4)), np.ones((6, 5, 4), np.uint8)
    view = viewed(np.zeros((6, 5, 4)), layers, slice_axis=2, truth=truth)
    assert view.layers == ("prediction", "truth", "a", "b")
    assert view.whole.shape == (4, 6, 5)
    for at, expected in enumerate((layers["prediction"], truth, layers["a"], layers["b"])):
        np.testing.assert_array_equal(layer(view.whole, at), np.moveaxis(expected, 2, 0))
        np.testing.assert_array_equal(layer(view.key_slice, at)[0], expected[:, :, view.key])


def test_more_than_256_combinations_take_two_bytes() -> None:
    rng = np.random.default_rng(0)
    layers = {name: rng.integers(0, 4, (20, 20, 20)).astype(np.uint8) for name in ("prediction", *"abcd")}
    view = viewed(np.zeros((20, 20, 20)), layers, slice_axis=0)
    assert (view.whole.bytes_per_code, len(view.whole.table)) == (2, 4**5)
    np.testing.assert_array_equal(layer(view.whole, 4), layers["d"])


def test_sizes_are_bounded_and_samples_are_of_the_middle() -> None:
    assert sample_places(9, 3).tolist() == [1, 4, 7]
    assert sample_places(4, 9).tolist() == [0, 1, 2, 3]
    shape = (VOLUME_SIDE * 2 + 1, SLICE_SIDE + 3, 5)
    view = viewed(np.zeros(shape), {"prediction": np.zeros(shape, np.uint8)}, slice_axis=2)
    assert view.whole.shape == (5, VOLUME_SIDE, VOLUME_SIDE)
    assert view.key_slice.shape == (1, SLICE_SIDE, SLICE_SIDE)
    assert (view.native, view.key) == ((5, shape[0], shape[1]), 2)
    flat = viewed(np.zeros((1000, 10)), {"prediction": np.zeros((1000, 10), np.uint8)}, slice_axis=None)
    assert flat.whole.shape == (1, PICTURE_SIDE, 10)
    assert flat.planes[0] == "image"


def test_the_image_is_there_in_its_percentile_range() -> None:
    grey = np.zeros((32, 32, 8))
    grey[:, 16:] = 500
    shown = image(viewed(grey, {"prediction": np.zeros(grey.shape, np.uint8)}, slice_axis=2).whole)
    assert shown[:, :, :12].max() < 10
    assert shown[:, :, 20:].min() > 245


def test_axes_run_as_radiologists_look() -> None:
    # File: x to the left (negative), z, y to the anterior. The slices are along z.
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[0, 0, 0] = 1  # rightmost, lowest, most posterior
    view = viewed(np.zeros(mask.shape), {"prediction": mask}, slice_axis=1, affine=affine, spacing=(1.0, 3.0, 2.0))
    assert view.planes == ("axial", "coronal", "sagittal")
    assert view.upright == (2, 1, 0)
    assert view.flipped == (True, True, False)
    assert (view.native, view.voxel) == ((5, 6, 4), (3.0, 2.0, 1.0))
    shown = layer(view.whole, 0)
    assert np.argwhere(shown).tolist() == [
        [4, 5, 0]
    ]  # last slice (inferior), last row (posterior), left (patient's right)
    assert view.key == 4


def test_slices_along_another_axis_stay_the_first() -> None:
    view = viewed(np.zeros((4, 5, 6)), masks((4, 5, 6)), slice_axis=1, affine=np.eye(4))
    assert view.planes == ("coronal", "axial", "sagittal")
    assert view.upright == (1, 2, 0)


def test_an_affine_that_names_an_axis_twice_is_not_used() -> None:
    affine = np.array([[1.0, 1, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    view = viewed(np.zeros((4, 5, 6)), masks((4, 5, 6)), slice_axis=0, affine=affine)
    assert view.planes[0] == "slices"
    assert view.flipped == (False, False, False)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    view = viewed(np.zeros((4, 5)), masks((4, 5)), slice_axis=None, spacing=(0.5, 0.25))
    view.save(tmp_path / "view.json")
    assert CaseView.load(tmp_path / "view.json") == view
    assert view.voxel == (1.0, 0.5, 0.25)


def test_layers_are_made_one_at_a_time() -> None:
    made: list[weakref.ref[np.ndarray]] = []

    def layers() -> Iterator[tuple[str, np.ndarray]]:
        for name in ("prediction", *"abc"):
            assert sum(mask() is not None for mask in made) <= 1  # the one before, at most
            mask = np.ones((6, 6), np.uint8)
            made.append(weakref.ref(mask))
            yield name, mask
            del mask

    view = case_view(np.zeros((6, 6)), layers(), foreground=np.ones((6, 6)), slice_axis=None)
    assert view.layers == ("prediction", "a", "b", "c")
