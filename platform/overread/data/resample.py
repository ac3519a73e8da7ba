"""Bringing ids and maps from one grid to another by the affines of both (voxel to world, as NIfTI defines them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overread.errors import UserError

Number = TypeVar("Number", bound=np.generic)
_SAME = 1e-3
"""Voxels by which corners may differ in one grid: rounding of headers stays below, and nothing is interpolated."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array lie."""

    shape: tuple[int, ...]
    """(X, Y[, Z]) or (rows, columns)."""
    affine: NDArray[np.float64] | None
    """(4, 4) voxel to world; None where nobody recorded it."""


def resample_ids(ids: NDArray[Number], source: Grid, target: Grid) -> NDArray[Number]:
    """Return ids (*source) on the target grid: the nearest voxel's, 0 where `source` has none.

    Raises `UserError` where the grids share no voxel, or cannot be compared: without both affines the shapes must be
    equal.
    """
    return _moved(ids, source, target, order=0)


def resample_probabilities(maps: NDArray[Any], source: Grid, target: Grid) -> NDArray[np.float32]:
    """Return probabilities (K, *source) on the target grid, linear between voxels, surely background outside.

    A voxel where all maps are 0 is background as well (nnU-Net leaves what it cropped so), and the sum over K is 1.
    Going to a coarser grid averages nothing: it reads the maps at the centres of the target's voxels.
    """
    found = np.empty((len(maps), *target.shape), np.float32)
    for k, values in enumerate(maps):
        found[k] = _moved(np.asarray(values, np.float32), source, target, order=1)
    total = found.sum(0)
    found[0][total <= 0] = 1.0
    found /= np.where(total > 0, total, 1.0)
    return found


def _moved(values: NDArray[Any], source: Grid, target: Grid, order: int) -> NDArray[Any]:
    """Return the values on the target grid, 0 outside the source grid."""
    if values.shape != source.shape:
        raise ValueError(f"values must have their grid's shape {source.shape}, but have {values.shape}")
    small, large = _three(source.shape), _three(target.shape)
    if source.affine is None or target.affine is None:
        if small != large:
            raise UserError(
                f"a reading without known geometry must have the image's shape {target.shape}, but has {source.shape}: "
                "resample it to the image"
            )
        return values.reshape(target.shape)
    matrix = _between(source.affine, target.affine)
    corners = np.array([[0.0, 0.0, 0.0, 1.0], [*(n - 1.0 for n in large), 1.0]])
    apart = float(np.abs(corners @ (matrix - np.eye(4)).T).max())
    if small == large and apart < _SAME:
        return values.reshape(target.shape)
    inside = _inside(matrix, small, large)
    if not inside.any():
        raise UserError("a reading must lie where its image lies, but shares no voxel with it: correct its header")
    # Beyond the last voxel's centre the nearest one counts, up to its edge; what is further out is cut off below.
    moved = ndimage.affine_transform(
        values.reshape(small), matrix[:3, :3], matrix[:3, 3], large, values.dtype, order=order, mode="nearest"
    )
    return np.where(inside, moved, np.zeros((), values.dtype)).reshape(target.shape)


def _between(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (4, 4) from target voxels to source voxels."""
    try:
        matrix = np.asarray(np.linalg.solve(source, target), np.float64)
    except np.linalg.LinAlgError:
        matrix = np.full((4, 4), np.nan)
    if not np.isfinite(matrix).all():
        raise UserError("the affine of a reading must be invertible, but is not: correct its header")
    return matrix


def _inside(matrix: NDArray[np.float64], source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which target voxels have their centre in a source voxel, (*target)."""
    found = np.ones(target, np.bool_)
    axes = np.ogrid[tuple(slice(n) for n in target)]
    for row, size in zip(matrix[:3], source, strict=True):
        place = sum(row[a] * axes[a] for a in range(3)) + row[3]
        # A thousandth of a voxel beyond the edge is rounding of the header.
        found &= (place >= -0.5 - _SAME) & (place <= size - 0.5 + _SAME)
    return found


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1)[:3]
