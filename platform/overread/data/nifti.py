"""NIfTI files (`.nii`, `.nii.gz`), with the header held against the bytes that are really there.

A gzip stream is decompressed in pieces and only as far as the header promises, so neither a lying header nor a
decompression bomb can ask for more memory than the file holds.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np

from overread.errors import UserError

SUFFIXES = (".nii.gz", ".nii")
_PIECE = 1 << 20
_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


@dataclass(frozen=True, eq=False, kw_only=True)
class Header:
    """What a file says of itself, read without its voxels."""

    shape: tuple[int, ...]
    """Native axes without channels: (X, Y[, Z]) or (rows, columns)."""
    channels: int
    dtype: str
    promised_bytes: int | None
    """Bytes that the header says the decompressed file has; None for pictures."""
    available_bytes: int
    """Bytes the decompressed NIfTI file holds, counted up to `promised_bytes`; size on disk for pictures."""
    affine: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None
    raw: bytes | None = None
    """Binary NIfTI header."""


def inspect(path: Path) -> Header:
    """Return the header of a NIfTI file and how many of the promised bytes the file holds.

    Raises `UserError` for a file that is no NIfTI, is not gzip under the name `.nii.gz`, or is truncated.
    """
    header, _ = _load(path, keep=False)
    return header


def read_voxels(path: Path) -> tuple[np.ndarray, Header]:
    """Return the scaled voxels in stored order, integer where the file stores unscaled integers, and the header."""
    header, content = _load(path, keep=True)
    image_class = nibabel.Nifti2Image if len(header.raw or b"") > 348 else nibabel.Nifti1Image
    image = image_class.from_bytes(content)
    slope, inter = image.header.get_slope_inter()
    unscaled = slope in (None, 1.0) and inter in (None, 0.0)
    if np.dtype(header.dtype).kind in "iu" and unscaled:
        return np.asarray(image.dataobj), header
    return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged")), header


def write(path: Path, voxels: np.ndarray, raw_header: bytes | None, affine: np.ndarray | None) -> None:
    """Write voxels as NIfTI with the geometry of a binary header; without one, of the affine."""
    if raw_header is None:
        header = nibabel.Nifti1Header()
        image_class: Any = nibabel.Nifti1Image
    else:
        image_class = nibabel.Nifti2Image if len(raw_header) > 348 else nibabel.Nifti1Image
        header = image_class.header_class(raw_header)
        affine = None  # the header's own sform, qform and units are exact
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1.0, 0.0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0  # display window of the image, not of a mask
    nibabel.save(image_class(voxels, affine, header), path)


def _load(path: Path, *, keep: bool) -> tuple[Header, bytes]:
    """Parse the header, then stream the rest up to what it promises; `keep` returns the bytes."""
    try:
        with _open(path) as stream:
            start = stream.read(_HEADER_BYTES)
            header = _parse(path, start)
            promised = header.promised_bytes or 0
            pieces, count = [start], len(start)
            while count < promised and (piece := stream.read(min(_PIECE, promised - count))):
                count += len(piece)
                if keep:
                    pieces.append(piece)
            stream.read(1)  # past the last voxel: gzip verifies its checksum at the end
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the gzip stream must be whole, but it is broken ({error}): copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: the file must be readable, but reading failed ({error}): check the file") from None
    if count < promised:
        raise UserError(
            f"{path}: the file must hold the {promised} bytes its header promises (shape {header.shape}), "
            f"but holds {count}: it is truncated or its header is wrong, copy it again"
        )
    return header, b"".join(pieces)


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if path.name.lower().endswith(".gz") and not zipped:
        raise UserError(f"{path}: a .nii.gz must be gzip-compressed, but it is not: compress it, or name it .nii")
    return cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb")


def _parse(path: Path, start: bytes) -> Header:
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    header_class = nibabel.Nifti2Header if 540 in sizes else nibabel.Nifti1Header
    length = 540 if 540 in sizes else 348
    if not sizes & {348, 540} or len(start) < length:
        raise UserError(f"{path}: the file must be NIfTI, but has no NIfTI header: convert or copy it again")
    try:
        parsed = header_class(start[:length], check=True)
        dtype, shape = parsed.get_data_dtype(), tuple(int(n) for n in parsed.get_data_shape())
        offset = int(parsed["vox_offset"]) or length + 4
        affine = np.asarray(parsed.get_best_affine(), dtype=np.float64)
        spacing = _spacing(parsed, affine)
    except Exception as error:  # nibabel raises many types for nonsense in a header
        raise UserError(f"{path}: the NIfTI header must be valid, but is not ({error}): export it again") from None
    if dtype.kind not in "iuf" or not shape or min(shape) < 1:
        raise UserError(f"{path}: voxels must be real numbers on a grid, but got {dtype} of shape {shape}: convert it")
    native, channels = _split_channels(path, shape)
    return Header(
        shape=native,
        channels=channels,
        dtype=dtype.newbyteorder("=").name,
        promised_bytes=offset + math.prod(shape) * dtype.itemsize,
        available_bytes=offset + math.prod(shape) * dtype.itemsize,
        affine=affine,
        spacing=None if spacing is None else spacing[: len(native)],
        raw=start[:length],
    )


def _split_channels(path: Path, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return native axes and channels: (X, Y), (X, Y, Z), (X, Y, Z, C), and (X, Y, Z, 1, C) as ITK writes vectors."""
    if len(shape) < 2 or len(shape) > 5 or (len(shape) == 5 and shape[3] != 1):
        raise UserError(f"{path}: an image must have 2 to 4 axes, but has shape {shape}: split it into volumes")
    return (shape, 1) if len(shape) <= 3 else (shape[:3], shape[-1])


def _spacing(header: Any, affine: np.ndarray) -> tuple[float, ...] | None:
    """Return the voxel size in mm, or None when nobody recorded it: unknown unit and an untouched geometry."""
    unit = header.get_xyzt_units()[0]
    zooms = tuple(float(zoom) for zoom in header.get_zooms()[:3])
    untouched = np.allclose(affine, np.eye(4)) or (int(header["sform_code"]) == 0 == int(header["qform_code"]))
    if unit == "unknown" and untouched and np.allclose(zooms, 1.0):
        return None
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in zooms):
        return None
    return tuple(zoom * _MM[unit] for zoom in zooms)
