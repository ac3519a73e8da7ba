"""Preparation of arrays, against values worked out by hand."""

import numpy as np
import pytest

from overread.data.preprocess import (
    choose_preprocessing,
    kept_classes,
    prepared_shape,
    preprocess_image,
    resize_matrix,
    to_class_ids,
    to_native,
    to_native_ids,
    to_prepared_mask,
)
from overread.errors import UserError
from overread.records import Dataset, PrepareSettings, Preprocessing


def _dataset(spatial_dims: int = 3, channels: tuple[str, ...] = ("MRI",)) -> Dataset:
    return Dataset(
        name="d",
        root="/d",
        layout="msd",
        spatial_dims=spatial_dims,
        channels=channels,
        label_names=("background", "organ"),
        label_values=(0, 1),
        cases=(),
    )


def _preprocessing(axis: int | None = 2, max_side: int = 128, ct: tuple[bool, ...] = (False,)) -> Preprocessing:
    dims = 2 if axis is None else 3
    return Preprocessing(channels=("x",) * len(ct), ct=ct, spatial_dims=dims, slice_axis=axis, max_side=max_side)


@pytest.mark.parametrize(
    ("spacings", "shapes", "axis"),
    [
        ([(5.0, 1.0, 1.0), (5.0, 1.0, 1.0)], [(90, 20, 20)] * 2, 0),  # largest spacing wins over fewest voxels
        ([(1.0, 1.0, 9.0), (3.0, 1.0, 2.0), (3.0, 1.0, 2.0)], [(9, 9, 9)] * 3, 0),  # the median, not one outlier
        ([(1.0, 1.0, 1.0)], [(35, 50, 34)], 2),  # equal spacing: fewest voxels
        ([(1.0, 1.00001, 1.0)], [(35, 50, 34)], 2),  # rounding in a header is no difference
        ([None, None], [(10, 200, 180), (12, 200, 180)], 0),  # unknown spacing: fewest voxels
        ([(2.0, 1.0, 2.0)], [(30, 10, 30)], 2),  # equal in both: the last
    ],
)
def test_slice_axis(spacings: list, shapes: list, axis: int) -> None:
    assert choose_preprocessing(_dataset(), spacings, shapes, PrepareSettings()).slice_axis == axis


def test_slice_axis_can_be_given_and_wrong_ones_are_refused() -> None:
    spacings, shapes = [(1.0, 1.0, 5.0)], [(30, 30, 10)]
    assert choose_preprocessing(_dataset(), spacings, shapes, PrepareSettings(axis=1)).slice_axis == 1
    with pytest.raises(UserError, match="axis must be 0, 1 or 2, but got 3"):
        choose_preprocessing(_dataset(), spacings, shapes, PrepareSettings(axis=3))
    assert choose_preprocessing(_dataset(2), [None], [(9, 9)], PrepareSettings()).slice_axis is None
    with pytest.raises(UserError, match="must not be given for 2-D"):
        choose_preprocessing(_dataset(2), [None], [(9, 9)], PrepareSettings(axis=0))


def test_only_channels_named_ct_are_clipped() -> None:
    chosen = choose_preprocessing(_dataset(channels=("CT", "PET")), [None], [(9, 9, 9)], PrepareSettings())
    assert chosen.ct == (True, False)


def test_z_score_by_hand_and_slices_first() -> None:
    native = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    image = preprocess_image(native, _preprocessing(axis=2))
    assert image.shape == (1, 4, 2, 3)
    # 0..23: mean 11.5, variance (24^2 - 1) / 12
    np.testing.assert_allclose(image[0, 3, 1, 2], (23 - 11.5) / np.sqrt(575 / 12), rtol=1e-6)
    np.testing.assert_allclose(image[0, 1, 0, 2], (9 - 11.5) / np.sqrt(575 / 12), rtol=1e-6)


def test_ct_is_clipped_to_its_percentiles_before_the_z_score() -> None:
    native = np.arange(101, dtype=np.float32).reshape(1, 1, 101)
    image = preprocess_image(native, _preprocessing(axis=None, ct=(True,)))[0, 0, 0]
    clipped = np.arange(101.0).clip(5, 95)
    np.testing.assert_allclose(image, (clipped - 50) / clipped.std(), atol=1e-6)


def test_constant_and_huge_images_stay_finite() -> None:
    assert not preprocess_image(np.full((1, 4, 4), 0.1, np.float32), _preprocessing(axis=None)).any()
    huge = preprocess_image(np.float32([[[1e30, 2e30]]]), _preprocessing(axis=None))
    np.testing.assert_allclose(huge.ravel(), [-1, 1])
    tiny = preprocess_image(np.float32([[[1e-20, 3e-20]]]), _preprocessing(axis=None))
    np.testing.assert_allclose(tiny.ravel(), [-1, 1])


def test_only_images_longer_than_max_side_are_resized() -> None:
    assert prepared_shape((200, 100, 7), _preprocessing(max_side=100)) == (7, 100, 50)
    assert prepared_shape((99, 100, 7), _preprocessing(max_side=100)) == (7, 99, 100)
    assert prepared_shape((1000, 1), _preprocessing(axis=None, max_side=10)) == (1, 10, 1)


def test_resize_matrix_by_hand() -> None:
    np.testing.assert_array_equal(resize_matrix(3, 3), np.eye(3))
    # enlarging 2 -> 4: centres at -0.25, 0.25, 0.75, 1.25 source pixels, edges held
    np.testing.assert_allclose(resize_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # shrinking 8 -> 4: a triangle two pixels to each side, (1, 3, 3, 1) / 8 inside
    np.testing.assert_allclose(resize_matrix(8, 4)[1], [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0, 0, 0])
    np.testing.assert_allclose(resize_matrix(8, 4)[0], [3 / 7, 3 / 7, 1 / 7, 0, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(resize_matrix(13, 5).sum(1), 1, rtol=1e-6)


def test_class_ids_of_label_values() -> None:
    np.testing.assert_array_equal(to_class_ids(np.array([[0, 255], [255, 0]]), (0, 255)), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(to_class_ids(np.array([4, 0, 2]), (0, 2, 4)), [2, 0, 1])
    with pytest.raises(UserError, match=r"among \[0, 1\], but found \[3\]"):
        to_class_ids(np.array([0, 3]), (0, 1))


def test_masks_are_prepared_by_nearest_neighbour() -> None:
    mask = np.zeros((4, 4, 2), np.uint8)
    mask[1, 1, 1], mask[3, 3, 1], mask[0, 0, 0] = 1, 2, 3
    prepared = to_prepared_mask(mask, _preprocessing(max_side=2))
    # target pixel centres 0.5 and 1.5 fall on source pixels 1 and 3
    np.testing.assert_array_equal(prepared, [[[0, 0], [0, 0]], [[1, 0], [0, 2]]])
    assert prepared.dtype == np.uint8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_unresized_maps_return_to_the_native_grid_exactly(axis: int) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    prepared = to_prepared_mask(mask, _preprocessing(axis))
    assert prepared.shape[0] == mask.shape[axis]
    one_hot = np.stack([prepared == k for k in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(to_native(one_hot, mask.shape, _preprocessing(axis)).argmax(0), mask)


def test_resized_probabilities_keep_their_sum_and_place() -> None:
    preprocessing = _preprocessing(axis=None, max_side=16)
    assert prepared_shape((40, 30), preprocessing) == (1, 16, 12)
    mask = np.zeros((40, 30), np.uint8)
    mask[10:30, 5:20] = 1
    prepared = to_prepared_mask(mask, preprocessing)
    native = to_native(np.stack([prepared == 0, prepared == 1]).astype(np.float32), mask.shape, preprocessing)
    assert native.shape == (2, 40, 30)
    np.testing.assert_allclose(native.sum(0), 1, rtol=1e-5)
    back = native.argmax(0)
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.9
    rows = np.nonzero(back.any(1))[0]
    assert abs(rows.mean() - 19.5) <= 1  # nearest and linear agree on pixel centres: no shift


def test_foreign_images_are_refused() -> None:
    with pytest.raises(UserError, match="must have 3 spatial axes, but this one has 2"):
        preprocess_image(np.zeros((1, 4, 4)), _preprocessing(axis=2))
    with pytest.raises(UserError, match=r"must have 1 channels \(x\), but this one has 3"):
        preprocess_image(np.zeros((3, 4, 4)), _preprocessing(axis=None))


def test_ids_go_back_to_the_native_grid_without_mixing() -> None:
    ids = np.array([[[1, 700], [0, 3]]], np.int32)
    flat = to_native_ids(ids, (4, 3), _preprocessing(None))
    assert flat.dtype == np.int32
    assert flat.tolist() == [[1, 700, 700], [1, 700, 700], [0, 3, 3], [0, 3, 3]]
    # slices lie along the native axis 2: (D, H, W) = (1, 2, 2) goes to (X, Y, Z) = (2, 2, 1)
    assert to_native_ids(ids, (2, 2, 1), _preprocessing(2))[..., 0].tolist() == [[1, 700], [0, 3]]


def test_a_window_takes_the_place_of_percentiles_and_z_score() -> None:
    chosen = choose_preprocessing(
        _dataset(channels=("CT", "PET")), [None], [(9, 9, 9)], PrepareSettings(window=(-125.0, 275.0))
    )
    assert chosen.window == (-125.0, 275.0)
    native = np.array([-1000.0, -125.0, -25.0, 275.0, 3000.0]).reshape(1, 1, 5).repeat(2, 0)
    windowed = Preprocessing(
        channels=("CT", "PET"), ct=(True, False), spatial_dims=2, slice_axis=None, max_side=9, window=(-125.0, 275.0)
    )
    ct, pet = preprocess_image(native, windowed)[:, 0, 0]
    assert ct.tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]
    np.testing.assert_allclose([pet.mean(), pet.std()], [0, 1], atol=1e-6)  # no CT


def test_a_window_must_rise_and_have_a_ct() -> None:
    with pytest.raises(UserError, match="a window must have a channel named CT, but got MRI"):
        choose_preprocessing(_dataset(), [None], [(9, 9, 9)], PrepareSettings(window=(0.0, 1.0)))
    with pytest.raises(UserError, match="must rise from low to high, but got 2,1"):
        choose_preprocessing(_dataset(channels=("CT",)), [None], [(9, 9, 9)], PrepareSettings(window=(2.0, 1.0)))


def test_labels_that_are_kept() -> None:
    assert kept_classes((0, 5, 7, 9), None) == (0, 1, 2, 3)
    assert kept_classes((0, 5, 7, 9), (9, 5)) == (0, 1, 3)  # in the order of the data set
    for wrong in ((), (0,), (6,)):
        with pytest.raises(UserError, match="labels to keep must be among 5, 7, 9"):
            kept_classes((0, 5, 7, 9), wrong)
