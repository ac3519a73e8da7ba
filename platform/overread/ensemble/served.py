"""An ensemble package as an MLflow model: `mlflow.pyfunc.load_model("models:/NAME/1").predict(images)`.

MLflow imports this module by its name and gives it the package's folder: nothing is pickled. MLflow itself is not
needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.data.images import NativeImage
from overread.ensemble.package import Package, load_package
from overread.ensemble.predict import read_case


class ServedEnsemble:
    """Reads images in memory with a package; files, geometry and reports are the work of `overread predict`.

    Imported members have no readings here: they count as failed.
    """

    def __init__(self, package: Package) -> None:
        self.package = package

    def predict(
        self, images: Sequence[NDArray[Any]] | NDArray[Any], params: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return per image (C, *native) its `mask` (*native) of label values and its `confidence` row.

        `params` may name the `device`, such as `cuda`. Raises `UserError` for an image that does not fit the package.
        """
        device = str((params or {}).get("device", "cpu"))
        values = np.asarray(self.package.manifest.label_values)
        found = []
        for index, image in enumerate(images):
            array = np.ascontiguousarray(image, dtype=np.float32)
            native = NativeImage(array, None, None, str(image.dtype), ".nii.gz")
            reading = read_case(self.package, native, device, case_id=f"image_{index}")
            judge = self.package.judgement
            row = judge.judge(reading.confidence) if judge else reading.confidence
            found.append({"mask": values[reading.mask], "confidence": row.to_json()})
        return found


def _load_pyfunc(path: str) -> ServedEnsemble:
    """Open the package in `path`; the name is what MLflow looks for."""
    return ServedEnsemble(load_package(Path(path)))
