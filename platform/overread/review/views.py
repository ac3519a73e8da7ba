"""What the viewer of the review page gets of a case: its image and all masks, in a size that is bounded.

The whole case is sampled to at most `VOLUME_SIDE` voxels along each axis (`PICTURE_SIDE`, if it is one slice), and the
slice with most foreground, the key slice, to `SLICE_SIDE`; the page embeds one of the two. Sampling takes every n-th
voxel, so a finding thinner than n voxels may be missing: the page tells n, and the masks of the prediction folder have
all.

- Image: the 1-99 percentile range as grey JPEG, the slices one below the other.
- Masks (prediction, truth, members): each combination of class ids that occurs is one code; one volume of codes,
  deflated, and a table from code to class ids. Possible and Consensus follow from the members' entries. The size
  hardly grows with the number of members, which differ near borders only.

Axes are those of the page: the slices first, then rows and columns. With a known affine they run from superior to
inferior, anterior to posterior, and the patient's right to left, as radiologists look at them.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.data.overlay import best_slice
from overread.jsonio import JsonRecord

VOLUME_SIDE = 96
"""Voxels along the longest axis of an embedded volume, at most: 100-400 KB, by the noise of the image."""
PICTURE_SIDE = 384
"""Pixels along the longer side of a case that is one slice, at most: 15-50 KB."""
SLICE_SIDE = 128
"""Pixels along the longer side of an embedded key slice, at most: 4-8 KB."""
JPEG_QUALITY = 70
WORLD_PLANES = ("sagittal", "coronal", "axial")
"""By the world axis (x, y, z of NIfTI) that is normal to the plane."""
PREDICTION, TRUTH = "prediction", "truth"


@dataclass(frozen=True, kw_only=True)
class Sampled(JsonRecord):
    """A sampled case or slice, (D, H, W) of the page."""

    shape: tuple[int, int, int]
    image: str
    """Base64 of a grey JPEG (D * H, W)."""
    codes: str
    """Base64 of the deflated (zlib) codes in C order, `bytes_per_code` each, little-endian."""
    bytes_per_code: int
    table: tuple[tuple[int, ...], ...]
    """By code: the class id of each layer."""

    @property
    def characters(self) -> int:
        """What it adds to the page, about, in characters."""
        return len(self.image) + len(self.codes) + sum(3 * len(row) for row in self.table)


@dataclass(frozen=True, kw_only=True)
class CaseView(JsonRecord):
    """All that the page may embed of one case."""

    layers: tuple[str, ...]
    """`prediction`, `truth` where it is known (by `has_truth`), then the members by name."""
    has_truth: bool
    planes: tuple[str, str, str]
    """Name of the plane that is normal to each axis of the page."""
    upright: tuple[int, int, int]
    """By axis of the page: in a plane, the axis of the higher number runs down and the other to the right."""
    native: tuple[int, int, int]
    """Voxels of the case along the axes of the page."""
    flipped: tuple[bool, bool, bool]
    """Axes of the page that run against those of the file."""
    voxel: tuple[float, float, float]
    """Size of a native voxel along the axes of the page: mm, or 1 where unknown."""
    key: int
    """Key slice, as a native position along the first axis of the page."""
    key_slice: Sampled
    whole: Sampled


def case_view(
    image: NDArray[Any],
    layers: Iterable[tuple[str, NDArray[Any]]],
    *,
    foreground: NDArray[Any],
    slice_axis: int | None,
    truth: NDArray[Any] | None = None,
    affine: NDArray[Any] | None = None,
    spacing: Sequence[float] | None = None,
) -> CaseView:
    """Return the view of a case.

    Args:
        image: The first channel on the native grid, (X, Y[, Z]) or (rows, columns).
        layers: Name and class ids on the native grid: the prediction first, then the members. They are sampled one at
            a time, so that members may be made on the way and memory does not grow with their number.
        foreground: Not 0 where any layer has foreground, on the native grid: it chooses the key slice.
        slice_axis: Native axis of the slices; None: the case is one slice.
        truth: Class ids on the native grid.
        affine: (4, 4) voxel to world in mm (right, anterior, superior), where known.
        spacing: Voxel size along the native axes in mm, where known.

    """
    layout = _Layout.of(image.ndim, slice_axis, affine)
    grey = layout.arrange(image)
    key = best_slice(layout.arrange(foreground))
    side = VOLUME_SIDE if len(grey) > 1 else PICTURE_SIDE
    whole_places = _places(grey.shape, side)
    slice_places = _places((1, *grey.shape[1:]), SLICE_SIDE)
    names: list[str] = []
    whole: list[NDArray[Any]] = []
    slices: list[NDArray[Any]] = []
    for name, mask in layers:
        arranged = layout.arrange(mask)
        names.append(name)
        whole.append(arranged[whole_places])
        slices.append(arranged[key][None][slice_places])
    if truth is not None:
        arranged = layout.arrange(truth)
        names.insert(1, TRUTH)
        whole.insert(1, arranged[whole_places])
        slices.insert(1, arranged[key][None][slice_places])
    shown = grey[whole_places]
    low, high = np.percentile(shown, (1, 99))
    return CaseView(
        layers=tuple(names),
        has_truth=truth is not None,
        planes=layout.planes,
        upright=layout.upright,
        native=_triple(grey.shape),
        flipped=layout.flipped,
        voxel=layout.voxel(spacing),
        key=key,
        key_slice=_packed(_window(grey[key][None][slice_places], low, high), slices),
        whole=_packed(_window(shown, low, high), whole),
    )


@dataclass(frozen=True)
class _Layout:
    """How native axes become those of the page."""

    order: tuple[int, ...]
    """Native axis of each axis of the page; a single slice gets a new first axis."""
    flipped: tuple[bool, bool, bool]
    planes: tuple[str, str, str]
    upright: tuple[int, int, int]

    @classmethod
    def of(cls, ndim: int, slice_axis: int | None, affine: NDArray[Any] | None) -> _Layout:
        if slice_axis is None or ndim == 2:
            return cls(tuple(range(ndim)), (False,) * 3, ("image", "rows", "columns"), (2, 1, 0))
        rest = [axis for axis in range(3) if axis != slice_axis]
        world = _world_axes(affine)
        if affine is None or world is None:
            return cls((slice_axis, *rest), (False,) * 3, ("slices", "across rows", "across columns"), (2, 1, 0))
        order = (slice_axis, *sorted(rest, key=lambda axis: -world[axis]))
        upright = _triple([world[axis] for axis in order])
        first, second, third = (bool(affine[world[axis], axis] > 0) for axis in order)
        one, two, three = (WORLD_PLANES[axis] for axis in upright)
        return cls(order, (first, second, third), (one, two, three), upright)

    def arrange(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a native array as (D, H, W) of the page, without a copy."""
        arranged = np.transpose(array, self.order)
        arranged = arranged[None] if arranged.ndim == 2 else arranged
        return arranged[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def voxel(self, spacing: Sequence[float] | None) -> tuple[float, float, float]:
        if spacing is None:
            return (1.0, 1.0, 1.0)
        sizes = [float(spacing[axis]) for axis in self.order]
        first, second, third = [1.0, *sizes] if len(sizes) == 2 else sizes
        return (first, second, third)


def _world_axes(affine: NDArray[Any] | None) -> list[int] | None:
    """Return the world axis that each native axis follows most; None where two follow one, or nothing is known."""
    if affine is None:
        return None
    found = [int(axis) for axis in np.abs(affine[:3, :3]).argmax(axis=0)]
    return found if sorted(found) == [0, 1, 2] else None


def _packed(image: NDArray[np.uint8], masks: Sequence[NDArray[Any]]) -> Sampled:
    codes, table = _encode(masks)
    width = 1 if len(table) <= 1 << 8 else 2 if len(table) <= 1 << 16 else 4
    return Sampled(
        shape=_triple(image.shape),
        image=_jpeg(image),
        codes=_base64(zlib.compress(codes.astype(f"<u{width}").tobytes(), 9)),
        bytes_per_code=width,
        table=table,
    )


def sample_places(length: int, side: int) -> NDArray[np.intp]:
    """Return the places of at most `side` samples, each in the middle of its share of the axis.

    >>> sample_places(9, 3).tolist(), sample_places(2, 3).tolist()
    ([1, 4, 7], [0, 1])
    """
    n = min(length, side)
    return (2 * np.arange(n) + 1) * length // (2 * n)


def _places(shape: Sequence[int], side: int) -> tuple[NDArray[Any], ...]:
    return np.ix_(*(sample_places(length, side) for length in shape))


def _encode(masks: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], tuple[tuple[int, ...], ...]]:
    """Return (codes, table): each combination of class ids that occurs is a code."""
    flat = [mask.ravel().astype(np.int64) for mask in masks]
    codes, first = np.zeros(flat[0].shape, np.int64), np.zeros(1, np.int64)
    for start in range(0, len(flat), 5):  # codes are below the number of voxels, 2 ** 20, and ids take 8 bits each
        for ids in flat[start : start + 5]:
            codes = codes * 256 + ids
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    return codes.reshape(masks[0].shape), tuple(tuple(int(ids[place]) for ids in flat) for place in first)


def _window(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255, dtype=np.uint8)


def _jpeg(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(image.reshape(-1, image.shape[2]))
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return _base64(buffer.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = (int(value) for value in values)
    return (first, second, third)
