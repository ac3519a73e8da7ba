"""Reading and writing of NIfTI volumes and pictures (PNG, JPG, TIF, BMP), on the user's own grid.

Arrays come as float32 (C, X, Y[, Z]) from NIfTI and (C, rows, columns) from pictures. Nothing is turned or resampled.
Every reader looks at the header first: a file that cannot hold the voxels its header promises is refused before any
memory is allocated for them. All failures are a `UserError` of one line that begins with the file's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from overread.data import nifti
from overread.data.nifti import Header
from overread.errors import UserError
from overread.jsonio import write_with

__all__ = [
    "PICTURE_SUFFIXES",
    "SUFFIXES",
    "Header",
    "NativeImage",
    "inspect_header",
    "read_image",
    "read_label",
    "stem",
    "suffix",
    "write_float_map",
    "write_mask",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SUFFIXES = (*nifti.SUFFIXES, *PICTURE_SUFFIXES)
_LOSSY = (".jpg", ".jpeg")
_ONE_CHANNEL = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class NativeImage:
    """One case as the user stored it."""

    array: np.ndarray
    """float32 (C, X, Y[, Z]) for NIfTI, (C, rows, columns) for pictures."""
    spacing: tuple[float, ...] | None
    """Voxel size along the native axes in mm; None when unknown (always for pictures)."""
    affine: np.ndarray | None
    """(4, 4) voxel to world; None for pictures."""
    dtype: str
    """Stored number type, such as `int16`."""
    file_format: str
    """Suffix of the (first) file, such as `.nii.gz`."""
    header: bytes | None = None
    """Raw NIfTI header of the first file, so that results carry its geometry exactly."""

    @property
    def native_shape(self) -> tuple[int, ...]:
        """Voxels along the native axes, without the channels."""
        return tuple(self.array.shape[1:])


def suffix(path: Path | str) -> str:
    """Return the supported suffix of a file name in lower case (`.nii.gz` counts as one), or '' for other files."""
    name = Path(path).name.lower()
    return next((ending for ending in SUFFIXES if name.endswith(ending) and len(name) > len(ending)), "")


def stem(path: Path | str) -> str:
    """Return the file name without its supported suffix."""
    name = Path(path).name
    return name[: len(name) - len(suffix(path))] if suffix(path) else name


def inspect_header(path: Path) -> Header:
    """Return what a file says of itself and, for NIfTI, the bytes it really holds, without allocating the voxels."""
    if _kind(path) == "nifti":
        return nifti.inspect(path)
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            shape, mode = (picture.height, picture.width), picture.mode
    except _PICTURE_ERRORS as error:
        raise _unreadable(path, error) from None
    if frames > 1:
        raise UserError(
            f"{path}: a picture must have one page, but has {frames}: save its pages as NIfTI or single files"
        )
    channels = 1 if mode in _ONE_CHANNEL else 3
    return Header(shape=shape, channels=channels, dtype=mode, promised_bytes=None, available_bytes=path.stat().st_size)


def read_image(paths: Sequence[Path]) -> NativeImage:
    """Read a case: one file per channel, or one file with all (4-D NIfTI: last axis; RGB; alpha is dropped).

    Raises `UserError` for an unreadable file or channels whose shapes differ.
    """
    parts = [_read_one(path) for path in paths]
    shapes = {part.native_shape for part in parts}
    if len(shapes) > 1:
        found = ", ".join(f"{path.name} {part.native_shape}" for path, part in zip(paths, parts, strict=True))
        raise UserError(
            f"{paths[0]}: channels of a case must have one shape, but got {found}: resample them to one grid"
        )
    first = parts[0]
    array = np.concatenate([part.array for part in parts]) if len(parts) > 1 else first.array
    return NativeImage(array, first.spacing, first.affine, first.dtype, first.file_format, first.header)


def read_label(path: Path) -> np.ndarray:
    """Read a label file as int32 values on its native grid, (X, Y[, Z]) or (rows, columns).

    A JPG mask is cut at 128, since its compression blurs 0/255. Raises `UserError` for values that are not whole
    numbers and for coloured pictures.
    """
    values = nifti.read_voxels(path)[0] if _kind(path) == "nifti" else _picture_label(path)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.dtype.kind == "f":
        values = _whole(path, values)
    limits = np.iinfo(np.int32)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise UserError(f"{path}: label values must be class ids, but reach {values.max()}: export the label again")
    return values.astype(np.int32)


def write_mask(path: Path, mask: np.ndarray, like: NativeImage) -> Path:
    """Write class ids or label values on the grid of `like`, in its geometry and format, and return the path.

    An integer type of the input is kept where it holds the values; otherwise the smallest unsigned one is taken. The
    suffix of `path` is replaced by that of `like`; JPG, which would change the values, becomes PNG.
    """
    if mask.shape != like.native_shape:
        raise ValueError(f"mask must have shape {like.native_shape}, but got {mask.shape}")
    ending = ".png" if like.file_format in _LOSSY else like.file_format
    target = path.with_name(stem(path) + ending)
    typed = mask.astype(_mask_type(mask, like, ending))
    if ending in nifti.SUFFIXES:
        write_with(target, lambda temporary: nifti.write(temporary, typed, like.header, like.affine))
    else:
        write_with(target, lambda temporary: Image.fromarray(typed).save(temporary))
    return target


def write_float_map(path: Path, array: np.ndarray, like: NativeImage) -> Path:
    """Write a float32 map (*native) or maps (K, *native) beside the masks, and return the path.

    NIfTI keeps the geometry of `like`, with K as last axis; pictures become a float32 TIF with one page per map.
    """
    maps = np.asarray(array, dtype=np.float32)
    stacked = maps.ndim == len(like.native_shape) + 1
    if like.file_format in nifti.SUFFIXES:
        target = path.with_name(stem(path) + like.file_format)
        volume = np.moveaxis(maps, 0, -1) if stacked else maps
        write_with(target, lambda temporary: nifti.write(temporary, volume, like.header, like.affine))
        return target
    target = path.with_name(stem(path) + ".tif")
    pages = [Image.fromarray(page) for page in (maps if stacked else maps[None])]
    write_with(target, lambda temporary: pages[0].save(temporary, save_all=True, append_images=pages[1:]))
    return target


def _kind(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: the file must exist, but it does not: restore it or take the case out")
    ending = suffix(path)
    if not ending:
        raise UserError(f"{path}: the format must be one of {', '.join(SUFFIXES)}, but it is not: convert the file")
    return "nifti" if ending in nifti.SUFFIXES else "picture"


def _read_one(path: Path) -> NativeImage:
    if _kind(path) == "nifti":
        values, header = nifti.read_voxels(path)
        if header.channels > 1 or values.ndim > len(header.shape):
            array = np.moveaxis(values.reshape(*header.shape, header.channels), -1, 0)
        else:
            array = values[None]
        array = np.ascontiguousarray(array, dtype=np.float32)
        return NativeImage(array, header.spacing, header.affine, header.dtype, suffix(path), header.raw)
    inspect_header(path)
    try:
        with Image.open(path) as picture:
            if picture.mode in _ONE_CHANNEL:
                # band 0: the grey values; band 1 of LA is the alpha
                values = np.asarray(picture.getchannel(0) if picture.mode in ("LA", "La") else picture)
                array = values[None]
            else:
                # RGBA first, so that transparency is dropped and never blended in
                values = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGBA"))[..., :3]
                array = np.moveaxis(values, -1, 0)
            dtype = "uint8" if values.dtype == bool else values.dtype.newbyteorder("=").name
    except _PICTURE_ERRORS as error:
        raise _unreadable(path, error) from None
    return NativeImage(np.ascontiguousarray(array, dtype=np.float32), None, None, dtype, suffix(path))


def _picture_label(path: Path) -> np.ndarray:
    inspect_header(path)
    try:
        with Image.open(path) as picture:
            bands = np.asarray(picture)  # mode P gives palette indices: the class ids
            alpha = picture.mode in ("LA", "La", "RGBA", "RGBa", "PA")
    except _PICTURE_ERRORS as error:
        raise _unreadable(path, error) from None
    if bands.ndim == 3:
        bands = bands[..., :-1] if alpha else bands
        if suffix(path) not in _LOSSY and (bands != bands[..., :1]).any():
            raise UserError(f"{path}: a mask must be grey or palette, but has colours: save class ids or 0/255")
        bands = bands[..., 0]
    values = bands.astype(np.uint8) if bands.dtype == bool else bands
    if suffix(path) not in _LOSSY:
        return values
    if 0 < values.max() < 64:
        raise UserError(f"{path}: JPG blurs class ids (values up to {values.max()}): save the mask as PNG")
    return np.where(values >= 128, 255, 0)


def _whole(path: Path, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise UserError(f"{path}: label values must be whole numbers, but {count} are NaN or infinite: fix the label")
    rounded = np.rint(values)
    # float32 files scaled by slope 1 keep whole numbers exactly; anything else was interpolated
    wrong = np.abs(values - rounded) > 1e-4
    if wrong.any():
        example = float(values[wrong].flat[0])
        raise UserError(
            f"{path}: label values must be whole numbers, but {int(wrong.sum())} are not (such as {example:g}): "
            "resample labels with nearest neighbour"
        )
    return rounded


def _mask_type(mask: np.ndarray, like: NativeImage, ending: str) -> np.dtype:
    highest = int(mask.max(initial=0))
    kept = np.dtype(like.dtype) if like.dtype.lstrip("u").startswith("int") else np.dtype(np.uint8)
    if ending == ".bmp" or (ending not in nifti.SUFFIXES and kept.itemsize > 2):
        kept = np.dtype(np.uint8)
    if highest <= np.iinfo(kept).max:
        return kept
    return np.dtype(np.uint16) if highest <= np.iinfo(np.uint16).max else np.dtype(np.int32)


def _unreadable(path: Path, error: BaseException) -> UserError:
    cause = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: the picture must be readable, but reading failed ({cause}): export or copy it again")
