"""Ids and probabilities between grids, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from overread.data.resample import Grid, resample_ids, resample_probabilities
from overread.errors import UserError

IDENTITY = np.eye(4)


def scaled(*spacing: float, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def test_a_flipped_and_permuted_volume_comes_back() -> None:
    ids = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    turned = np.ascontiguousarray(ids[::-1].transpose(2, 0, 1))
    # voxel (a, b, c) of `turned` is (1 - b, c, a) of `ids`
    affine = np.array([[0, -1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    back = resample_ids(turned, Grid(turned.shape, affine), Grid(ids.shape, IDENTITY))
    np.testing.assert_array_equal(back, ids)
    assert back.dtype == np.uint8


def test_a_coarse_mask_covers_the_voxels_of_its_cells() -> None:
    # 2 mm voxels with centres at 0.5 and 2.5 mm cover -0.5..1.5 and 1.5..3.5; the fifth voxel at 4 mm is outside
    ids = np.array([1, 2], np.uint8).reshape(2, 1, 1)
    source = Grid((2, 1, 1), scaled(2, 1, 1, origin=(0.5, 0, 0)))
    assert resample_ids(ids, source, Grid((5, 1, 1), IDENTITY)).ravel().tolist() == [1, 1, 2, 2, 0]


def test_probabilities_are_linear_between_voxels_and_background_outside() -> None:
    maps = np.array([[0.8, 0.0], [0.2, 1.0]]).reshape(2, 2, 1, 1)
    source = Grid((2, 1, 1), scaled(2, 1, 1, origin=(0.5, 0, 0)))
    found = resample_probabilities(maps, source, Grid((5, 1, 1), IDENTITY))
    # centres at -0.25, 0.25, 0.75, 1.25 source voxels; up to the edge the nearest voxel counts
    np.testing.assert_allclose(found[1].ravel(), [0.2, 0.4, 0.8, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-6)


def test_what_was_cropped_to_zero_is_background() -> None:
    maps = np.array([[0.0, 0.25], [0.0, 0.75]]).reshape(2, 1, 2)
    found = resample_probabilities(maps, Grid((1, 2), None), Grid((1, 2), None))
    assert found.tolist() == [[[1.0, 0.25]], [[0.0, 0.75]]]


def test_an_image_has_one_slice() -> None:
    ids = np.array([[1, 2]], np.uint8)
    assert resample_ids(ids[..., None], Grid((1, 2, 1), IDENTITY), Grid((1, 2), IDENTITY)).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("affine", "shape", "says"),
    [
        (scaled(1, 1, 1, origin=(100, 0, 0)), (2, 2, 2), "shares no voxel with it"),
        (np.zeros((4, 4)), (2, 2, 2), "must be invertible"),
        (None, (2, 2, 3), r"must have the image's shape \(2, 2, 2\), but has \(2, 2, 3\)"),
    ],
)
def test_geometry_that_does_not_fit_is_a_mistake(affine: np.ndarray | None, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        resample_ids(np.zeros(shape, np.uint8), Grid(shape, affine), Grid((2, 2, 2), IDENTITY))
