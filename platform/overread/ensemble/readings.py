"""Readings kept small: foreground probabilities in steps of 1/255, compressed, several arrays in one file.

They are kept in the prepared grid. Resizing to the grid of the case is linear, so means over readings, and masks, are
those of the float maps up to that rounding. Mostly 0 and 255, they take about a hundredth of the float maps.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.ensemble.fusion import Probabilities
from overread.errors import UserError
from overread.jsonio import write_with

STEP = 255
Codes = NDArray[np.uint8]
"""(K - 1, D, H, W)."""


def encode(probabilities: NDArray[np.floating]) -> Codes:
    """Return the foreground of probabilities (K, *S) in steps of 1/255, (K - 1, *S)."""
    return np.rint(np.clip(probabilities[1:], 0, 1) * STEP).astype(np.uint8)


def decode(codes: Codes) -> Probabilities:
    """Return probabilities (K, *S), the background being the rest."""
    foreground = codes.astype(np.float32) / STEP
    return np.concatenate([np.clip(1 - foreground.sum(0, keepdims=True), 0, 1), foreground])


def write_readings(path: Path, readings: Iterable[tuple[str, Codes]]) -> None:
    """Write named readings as `.npz`, one in memory at a time."""

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, codes in readings:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, codes, allow_pickle=False)

    write_with(path, write)


def read_reading(path: Path, name: str) -> Probabilities:
    """Return the probabilities (K, D, H, W) of one reading; a file without it raises `UserError`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return decode(archive[name])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} must hold the reading {name}, but reading it failed ({error}): read it again"
        ) from None
