"""Where prepared arrays live and how they are opened.

A prepared folder holds `manifest.json` and per case `cases/<index>/image.npy` (C, D, H, W) float32, `labels.npy`
(A, D, H, W) uint8 and `truth.npy` (native grid) uint8, and `extra_<name>.npy` (channels, D, H, W) float32 where stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.jsonio import write_with
from overread.records import Prepared, PreparedCase

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CaseArrays:
    """The arrays of one prepared case. Each access maps the file anew: a kept map would keep a file handle open."""

    folder: Path

    @property
    def image(self) -> NDArray[np.float32]:
        """Prepared image (C, D, H, W), memory-mapped."""
        return self._open("image")

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Prepared class ids by annotator (A, D, H, W), memory-mapped."""
        return self._open("labels")

    @property
    def truth(self) -> NDArray[np.uint8]:
        """Truth for evaluation in the native grid, memory-mapped."""
        return self._open("truth")

    def read_extra(self, name: str) -> NDArray[np.float32]:
        """A named extra array (channels, D, H, W), memory-mapped."""
        return self._open(f"extra_{name}")

    def write_extra(self, name: str, array: NDArray[Any]) -> None:
        """Store a named extra array (channels, D, H, W) with the case."""
        write_with(self.folder / f"extra_{name}.npy", lambda path: np.save(path, array.astype(np.float32)))

    def _open(self, name: str) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{path} must exist, but it does not: prepare the data set again") from None


def open_case(prepared: Prepared, case: str | PreparedCase) -> CaseArrays:
    """Return the arrays of a case, by id or record."""
    record = prepared.case(case) if isinstance(case, str) else case
    return CaseArrays(prepared.folder(record))


def load_prepared(folder: Path) -> Prepared:
    """Read the manifest of a prepared folder, wherever the folder is now."""
    return replace(Prepared.load(folder / MANIFEST), root=str(folder.resolve()))


def default_cache() -> Path:
    """Return the folder of prepared data sets: `$OVERREAD_CACHE`, else `~/.cache/overread`."""
    return Path(os.environ.get("OVERREAD_CACHE") or Path.home() / ".cache" / "overread").expanduser()
