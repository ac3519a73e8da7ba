"""From native images to prepared arrays (C, D, H, W) and back.

Slices first, in-plane sides at most `max_side`, intensities as z-scores. The slice axis is never resampled. Resizing is
linear and separable, one small matrix per side, with pixel centres at half-integers, so that both directions agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.records import Dataset, PrepareSettings, Preprocessing

Spacing = tuple[float, ...] | None
Number = TypeVar("Number", bound=np.generic)


def choose_preprocessing(
    dataset: Dataset, spacings: Sequence[Spacing], shapes: Sequence[tuple[int, ...]], settings: PrepareSettings
) -> Preprocessing:
    """Return how all images of a data set are prepared, from the spacing and native shape of every case.

    Slices are cut along `settings.axis`, else the axis of largest median spacing; equal or unknown spacings: the axis
    with the fewest voxels (median), and of equal ones the last.
    """
    ct = tuple(name.strip().lower() == "ct" for name in dataset.channels)
    if settings.window is not None:
        low, high = settings.window
        if not low < high:
            raise UserError(f"the window must rise from low to high, but got {low:g},{high:g}: swap them")
        if not any(ct):
            named = ", ".join(dataset.channels)
            raise UserError(f"a window must have a channel named CT, but got {named}: rename it or give no window")
    return Preprocessing(
        channels=dataset.channels,
        ct=ct,
        spatial_dims=dataset.spatial_dims,
        slice_axis=_slice_axis(dataset.spatial_dims, spacings, shapes, settings.axis),
        max_side=settings.max_side,
        window=settings.window,
    )


def _slice_axis(
    spatial_dims: int, spacings: Sequence[Spacing], shapes: Sequence[tuple[int, ...]], axis: int | None
) -> int | None:
    if spatial_dims == 2:
        if axis is not None:
            raise UserError(f"axis must not be given for 2-D images, but got {axis}: leave it out")
        return None
    if axis is not None:
        if axis not in range(spatial_dims):
            raise UserError(f"axis must be 0, 1 or 2, but got {axis}: give the native axis that slices are cut along")
        return axis
    voxels = np.median(np.asarray(shapes, dtype=float), axis=0)
    known = [spacing for spacing in spacings if spacing is not None]
    widths = np.median(np.asarray(known, dtype=float), axis=0) if known else np.zeros(spatial_dims)
    # float32 headers differ in the last digits: equal to a thousandth is equal
    widest = widths >= widths.max() * (1 - 1e-3)
    return max(range(spatial_dims), key=lambda a: (bool(widest[a]), -voxels[a], a))


def preprocess_image(native: NDArray[Any], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the prepared image (C, D, H, W) float32 of a native one (C, *native).

    Per channel and image: CT is clipped to its 5-95 percentile, then z-score over all voxels (constant: all 0). With a
    window CT is clipped to it instead and scaled to 0..1, equally in all images.
    """
    _check_native(native, preprocessing)
    window = preprocessing.window
    channels = [
        _windowed(channel, window) if ct and window is not None else _normalise(channel, ct)
        for channel, ct in zip(native, preprocessing.ct, strict=True)
    ]
    stacked = _slices_first(np.stack(channels), preprocessing)
    return _resize(stacked, prepared_shape(native.shape[1:], preprocessing)[1:])


def _check_native(native: NDArray[Any], preprocessing: Preprocessing) -> None:
    if native.ndim != preprocessing.spatial_dims + 1:
        found = native.ndim - 1
        raise UserError(f"images must have {preprocessing.spatial_dims} spatial axes, but this one has {found}")
    if len(native) != len(preprocessing.channels):
        wanted = f"{len(preprocessing.channels)} channels ({', '.join(preprocessing.channels)})"
        raise UserError(f"images must have {wanted}, but this one has {len(native)}: give the same channels as trained")


def _normalise(channel: NDArray[Any], ct: bool) -> NDArray[np.float32]:
    values = channel.astype(np.float64)
    if ct:
        low, high = np.percentile(values, (5, 95))
        values = values.clip(low, high)
    deviation = values.std()
    # rounding leaves a constant image with a tiny deviation: do not blow it up to noise
    if deviation <= 1e-9 * max(1e-30, float(np.abs(values).max())):
        return np.zeros(values.shape, np.float32)
    return ((values - values.mean()) / deviation).astype(np.float32)


def _windowed(channel: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float32]:
    low, high = window
    return ((channel.astype(np.float64).clip(low, high) - low) / (high - low)).astype(np.float32)


def prepared_shape(native_shape: Sequence[int], preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return (D, H, W) of the prepared arrays of a native shape."""
    axis = preprocessing.slice_axis
    depth = 1 if axis is None else native_shape[axis]
    height, width = (n for a, n in enumerate(native_shape) if a != axis)
    scale = min(1.0, preprocessing.max_side / max(height, width))
    return depth, max(1, round(height * scale)), max(1, round(width * scale))


def to_class_ids(values: NDArray[Any], label_values: Sequence[int]) -> NDArray[np.uint8]:
    """Return class ids (index into `label_values`) of a label array; other values raise `UserError`."""
    ids = np.zeros(values.shape, np.uint8)
    known = np.zeros(values.shape, bool)
    for class_id, value in enumerate(label_values):
        found = values == value
        ids[found] = class_id
        known |= found
    if not known.all():
        strange = sorted({int(v) for v in np.unique(values[~known])})
        raise UserError(f"label values must be among {list(label_values)}, but found {strange[:10]}: correct the label")
    return ids


def kept_classes(label_values: Sequence[int], labels: Sequence[int] | None) -> tuple[int, ...]:
    """Return the class ids (index into `label_values`) that stay where `labels` are kept: the background and those."""
    if labels is None:
        return tuple(range(len(label_values)))
    unknown = [value for value in labels if value not in label_values[1:]]
    if unknown or not labels:
        known = ", ".join(map(str, label_values[1:]))
        raise UserError(f"labels to keep must be among {known}, but got {list(labels)}: name values of the label files")
    return (0, *(k for k, value in enumerate(label_values) if k and value in labels))


def to_prepared_mask(mask: NDArray[Number], preprocessing: Preprocessing) -> NDArray[Number]:
    """Return the prepared mask (D, H, W) of native class or instance ids, by nearest neighbour."""
    slices = _slices_first(mask[None], preprocessing)[0]
    _, height, width = prepared_shape(mask.shape, preprocessing)
    rows, columns = _nearest(slices.shape[1], height), _nearest(slices.shape[2], width)
    return np.ascontiguousarray(slices[:, rows[:, None], columns[None, :]])


def to_native(
    probabilities: NDArray[Any], native_shape: Sequence[int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Return maps (K, D, H, W) in the native grid (K, *native_shape): linear in plane, slices moved back.

    Maps that sum to 1 over K still do.
    """
    axis = preprocessing.slice_axis
    sides = tuple(n for a, n in enumerate(native_shape) if a != axis)
    resized = _resize(np.asarray(probabilities, dtype=np.float32), sides)
    return resized[:, 0] if axis is None else np.moveaxis(resized, 1, axis + 1)


def to_native_ids(ids: NDArray[Number], native_shape: Sequence[int], preprocessing: Preprocessing) -> NDArray[Number]:
    """Return ids (D, H, W) in the native grid, by nearest neighbour: what `to_native` cannot do, ids do not mix."""
    axis = preprocessing.slice_axis
    height, width = (n for a, n in enumerate(native_shape) if a != axis)
    rows, columns = _nearest(ids.shape[1], height), _nearest(ids.shape[2], width)
    resized = np.ascontiguousarray(ids[:, rows[:, None], columns[None, :]])
    return resized[0] if axis is None else np.moveaxis(resized, 0, axis)


def _slices_first(array: NDArray[Any], preprocessing: Preprocessing) -> NDArray[Any]:
    """(N, *native) -> (N, D, H, W)."""
    axis = preprocessing.slice_axis
    return array[:, None] if axis is None else np.moveaxis(array, axis + 1, 1)


def _resize(array: NDArray[Any], sides: Sequence[int]) -> NDArray[np.float32]:
    """Resize the last two axes of an array linearly."""
    height, width = sides
    if array.shape[-2] != height:
        array = resize_matrix(array.shape[-2], height) @ array
    if array.shape[-1] != width:
        array = array @ resize_matrix(array.shape[-1], width).T
    return np.ascontiguousarray(array, dtype=np.float32)


@lru_cache(maxsize=256)
def resize_matrix(source: int, target: int) -> NDArray[np.float32]:
    """Return the (target, source) matrix of linear resizing; each row sums to 1.

    A triangle around each target pixel centre: as wide as a source pixel when enlarging (linear interpolation), as a
    target pixel when shrinking, so that fine detail is averaged and not aliased.
    """
    step = source / target
    centres = (np.arange(target) + 0.5) * step - 0.5
    distance = np.abs(np.arange(source)[None, :] - centres[:, None])
    weights = np.clip(1 - distance / max(1.0, step), 0, None)
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    """Source index of each target pixel centre."""
    return ((np.arange(target) + 0.5) * (source / target)).astype(np.intp).clip(0, source - 1)
