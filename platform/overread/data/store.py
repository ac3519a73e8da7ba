"""Where prepared arrays live and how they are opened.

A prepared folder holds `manifest.json` and per case `cases/<index>/image.npy` (C, D, H, W) float32; of labelled cases
`labels.npy` (A, D, H, W) and `truth.npy` (native grid), uint8; of those with several annotators `annotations.npy`
(A, native grid) uint8 and the image as it came, `native.npy` (C, native grid); of those with instances `instances.npy`
(D, H, W) and `native_instances.npy`, int32; and `extra_<name>.npy` (channels, D, H, W) float32 where stored, with what
it took in `extra_<name>.json`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.jsonio import read_json, write_json, write_with
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

    @property
    def annotations_path(self) -> Path:
        """File of `annotations`, which only a case of several annotators has."""
        return self.folder / "annotations.npy"

    @property
    def annotations(self) -> NDArray[np.uint8]:
        """Class ids by annotator in the native grid (A, *native), memory-mapped."""
        several = self.annotations_path.is_file()
        return self._open("annotations") if several else self.truth[None]

    @property
    def native(self) -> NDArray[Any] | None:
        """The image as it came (C, *native), memory-mapped; None: not kept, as the case has one annotator."""
        return self._open("native") if (self.folder / "native.npy").is_file() else None

    @property
    def instances(self) -> NDArray[np.int32]:
        """Prepared instance ids (D, H, W), 0 = none, memory-mapped."""
        return self._open("instances")

    @property
    def native_instances(self) -> NDArray[np.int32]:
        """Instance ids in the native grid, memory-mapped."""
        return self._open("native_instances")

    def has_extra(self, name: str) -> bool:
        """Whether a named extra array is stored."""
        return (self.folder / f"extra_{name}.npy").is_file()

    def read_extra(self, name: str) -> NDArray[np.float32]:
        """A named extra array (channels, D, H, W), memory-mapped."""
        return self._open(f"extra_{name}")

    def write_extra(self, name: str, array: NDArray[Any], seconds: float | None = None) -> None:
        """Store a named extra array (channels, D, H, W) with the case, and the seconds that computing it took."""
        if seconds is not None:
            write_json(self.folder / f"extra_{name}.json", {"seconds": seconds})
        write_with(self.folder / f"extra_{name}.npy", lambda path: np.save(path, array.astype(np.float32)))

    def extra_seconds(self, name: str) -> float | None:
        """Seconds that computing a named extra array took; None: not told."""
        path = self.folder / f"extra_{name}.json"
        return float(read_json(path)["seconds"]) if path.is_file() else None

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
