"""The files of the phantom in each layout; `overread.data.phantom` makes what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from overread.jsonio import write_json, write_with

if TYPE_CHECKING:
    from overread.data.phantom import PhantomCase, PhantomSettings


def write_folder(root: Path, settings: PhantomSettings, cases: Sequence[PhantomCase]) -> None:
    """Write an image folder: `images/` and `masks/`, 0/255 where there is one foreground class."""
    foreground = 255 if settings.classes == 2 else 1
    for case in cases:
        _write_png(root / "images" / f"{case.id}.png", _grey(case.image[0]))
        for folder, label in zip(_annotator_folders(settings), case.labels, strict=True):
            _write_png(root / "masks" / folder / f"{case.id}.png", label * np.uint8(foreground))


def write_nnunet(root: Path, settings: PhantomSettings, cases: Sequence[PhantomCase]) -> None:
    """Write the nnU-Net v2 layout, PNG or NIfTI: a file per channel, a label folder per annotator."""
    ending = ".png" if settings.kind == "2d" else ".nii.gz"
    for case in cases:
        for channel, values in enumerate(case.image):
            path = root / "imagesTr" / f"{case.id}_{channel:04d}{ending}"
            if settings.kind == "2d":
                _write_png(path, _grey(values))
            else:
                _write_nifti(path, _signal(values), settings)
        for folder, label in zip(_annotator_folders(settings), case.labels, strict=True):
            path = root / "labelsTr" / folder / f"{case.id}{ending}"
            if settings.kind == "2d":
                _write_png(path, label)
            else:
                _write_nifti(path, label, settings)
    description = {
        "name": "Phantom",
        "channel_names": _channel_names(settings),
        "labels": {name: k for k, name in enumerate(_label_names(settings))},
        "numTraining": len(cases),
        "file_ending": ending,
    }
    write_json(root / "dataset.json", description)


def write_decathlon(root: Path, settings: PhantomSettings, cases: Sequence[PhantomCase]) -> None:
    """Write the Decathlon layout: NIfTI with the channels as last axis, and `dataset.json` with its list of cases."""
    for case in cases:
        image = np.moveaxis(case.image, 0, -1) if settings.channels > 1 else case.image[0]
        _write_nifti(root / "imagesTr" / f"{case.id}.nii.gz", _signal(image), settings)
        _write_nifti(root / "labelsTr" / f"{case.id}.nii.gz", case.labels[0], settings)
    description = {
        "name": "Phantom",
        "tensorImageSize": "4D" if settings.channels > 1 else "3D",
        "modality": _channel_names(settings),
        "labels": {str(k): name for k, name in enumerate(_label_names(settings))},
        "numTraining": len(cases),
        "training": [
            {"image": f"./imagesTr/{case.id}.nii.gz", "label": f"./labelsTr/{case.id}.nii.gz"} for case in cases
        ],
    }
    write_json(root / "dataset.json", description)


def _annotator_folders(settings: PhantomSettings) -> list[str]:
    """Subfolder of the label folder per annotator; none for a single one."""
    return [f"annotator{a + 1}" for a in range(settings.annotators)] if settings.annotators > 1 else [""]


def _channel_names(settings: PhantomSettings) -> dict[str, str]:
    return {str(channel): f"phantom{channel + 1}" for channel in range(settings.channels)}


def _label_names(settings: PhantomSettings) -> list[str]:
    return ["background", *(f"organ{k}" for k in range(1, settings.classes))]


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit grey levels of a picture."""
    return np.clip(130 + 45 * image, 0, 255).astype(np.uint8)


def _signal(image: NDArray[np.float32]) -> NDArray[np.int16]:
    """16-bit scanner units of a volume."""
    return np.round(1000 + 200 * image).astype(np.int16)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    write_with(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))


def _write_nifti(path: Path, voxels: NDArray[Any], settings: PhantomSettings) -> None:
    import nibabel

    volume = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, settings.slice_spacing, 1.0]))
    volume.header.set_xyzt_units("mm")
    write_with(path, lambda temporary: nibabel.save(volume, temporary))
