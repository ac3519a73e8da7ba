"""Masks and probabilities of other tools, found by case in a folder and brought into the grid of their image.

| tool | what is found for case NAME |
|---|---|
| nnU-Net v2 | `NAME.npz` of `--save_probabilities`, the mask beside it giving the geometry; else `NAME.nii.gz` |
| MONAI | `NAME/NAME_trans.nii.gz`, `NAME_seg.nii.gz`: an ending of `ENDINGS` counts as the case |
| MIST, a person | `NAME.nii.gz`, `NAME.png` |
| TotalSegmentator | `NAME/<label>.nii.gz`, one mask per class, named as the data set's labels; or its `--ml` file |
| overread | `masks/NAME.*` of a prediction folder |

A NIfTI file with as many channels as there are classes holds probabilities; with one foreground class one map of
numbers between 0 and 1 is its probability (MONAI after a sigmoid), and the background's is the rest. A mask holds the
label values of the data set; with one foreground class 1 and 255 mean it, too.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.data.images import SUFFIXES, Header, inspect_header, read_image, read_label, suffix
from overread.data.preprocess import to_class_ids
from overread.data.resample import Grid, resample_ids, resample_probabilities
from overread.errors import UserError

ENDINGS = ("", "_seg", "_trans", "_pred", "_mask")
NPZ = ".npz"
_DISAGREE = 0.1
"""Share of the foreground in which an npz and the mask beside it may differ: a removed speck, not a flipped axis."""
_SUM = 0.02
"""Distance of a sum of probabilities from 1 (or, cropped away, 0) that half precision explains."""


def find_readings(folder: Path, cases: Iterable[str], label_names: Sequence[str]) -> dict[str, Path]:
    """Return the file, or the folder of one mask per class, of every case that has one; of two kinds the first above.

    `label_names` are by class id, the background first.
    """
    masks = folder / "masks"
    files = _entries(masks if masks.is_dir() else folder)
    labels = {_slug(label) for label in label_names[1:]}
    found = {}
    for case in cases:
        path = next((files[case + ending] for ending in ENDINGS if case + ending in files), None)
        if path is not None and path.is_dir():
            inner = _entries(path)
            single = next((inner[case + ending] for ending in ENDINGS if case + ending in inner), None)
            path = single or (path if labels & {_slug(name) for name in inner} else None)
        if path is not None:
            found[case] = path
    return found


def read_reading(
    path: Path, target: Grid, label_names: Sequence[str], label_values: Sequence[int]
) -> NDArray[np.float32]:
    """Return the probabilities (K, *target) of a file or folder that `find_readings` found; of a mask 0 and 1.

    Raises `UserError` for other labels, for geometry that is not that of the image, and for unreadable files.
    """
    try:
        if path.is_dir():
            return _certain(_by_class(path, target, label_names), len(label_names))
        if path.name.endswith(NPZ):
            return resample_probabilities(*_npz(path, target, label_names, label_values), target)
        header = inspect_header(path)
        if header.channels == len(label_names) and header.affine is not None:
            return resample_probabilities(_checked(read_image([path]).array), _grid(header), target)
        if header.channels != 1 and header.affine is not None:
            raise UserError(
                f"a NIfTI file must hold a mask or probabilities of {len(label_names)} classes, but has "
                f"{header.channels} channels: give one of the two"
            )
        try:
            ids = _ids(path, label_values)
        except UserError:
            maps = None if header.affine is None else _foreground(path, len(label_names))
            if maps is None:
                raise
            return resample_probabilities(maps, _grid(header), target)
        return _certain(resample_ids(ids, _grid(header), target), len(label_names))
    except UserError as error:
        raise UserError(*(text if str(path) in text else f"{path}: {text}" for text in error.problems)) from None


def grid_of(path: Path) -> Grid:
    """Return the grid of an image file, from its header."""
    return _grid(inspect_header(path))


def files_of(path: Path) -> list[Path]:
    """Return the files that a reading is made of, in order: what its content hash is over."""
    if path.is_dir():
        return sorted(_entries(path).values())
    beside = _beside(path) if path.name.endswith(NPZ) else None
    return [path] if beside is None else [path, beside]


def _entries(folder: Path) -> dict[str, Path]:
    """Return files and folders by their name without suffix; of several files of one name an npz, then by suffix."""
    if not folder.is_dir():
        return {}
    order = (*SUFFIXES[::-1], NPZ)  # later ones replace earlier ones
    found: dict[str, Path] = {}
    paths = [path for path in sorted(folder.iterdir()) if path.name[0] != "."]
    for path in (path for path in paths if path.is_dir()):
        found[path.name] = path
    files = [(_kind(path), path) for path in paths if path.is_file() and _kind(path)]
    for kind, path in sorted(files, key=lambda item: order.index(item[0])):
        found[path.name[: -len(kind)]] = path
    return found


def _kind(path: Path) -> str:
    return NPZ if path.name.lower().endswith(NPZ) else suffix(path)


def _grid(header: Header) -> Grid:
    return Grid(header.shape, header.affine)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _certain(ids: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    return np.stack([ids == k for k in range(classes)]).astype(np.float32)


def _ids(path: Path, label_values: Sequence[int]) -> NDArray[np.uint8]:
    values = read_label(path)
    if len(label_values) == 2 and label_values[0] == 0:
        other = set(np.unique(values).tolist()) - {0}
        if other in ({1}, {255}):  # one class: tools write it as 1, pictures as 255
            return (values > 0).astype(np.uint8)
    return to_class_ids(values, label_values)


def _foreground(path: Path, classes: int) -> NDArray[np.float32] | None:
    """Return the probabilities (2, *S) of a file that holds that of the foreground; None for any other numbers."""
    found = read_image([path]).array
    if (found == np.rint(found)).all() or not ((found >= -_SUM) & (found <= 1 + _SUM)).all():
        return None
    if classes != 2:
        raise UserError(
            f"a single map of probabilities must be of one foreground class, but there are {classes - 1}: write the "
            "probabilities of all classes as channels, the background first, or a mask"
        )
    inside = np.clip(found, 0, 1)
    return np.concatenate([1 - inside, inside])


def _by_class(folder: Path, target: Grid, label_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the ids (*target) of one mask per class; where two overlap the later class counts."""
    files: Mapping[str, Path] = {_slug(name): path for name, path in _entries(folder).items()}
    missing = [label for label in label_names[1:] if _slug(label) not in files]
    if missing:
        raise UserError(f"a mask of every label must be there, but {', '.join(missing)} is not: add it")
    ids = np.zeros(target.shape, np.uint8)
    for k, label in enumerate(label_names[1:], start=1):
        path = files[_slug(label)]
        ids[resample_ids(_ids(path, (0, 1)), grid_of(path), target) > 0] = k
    return ids


def _beside(path: Path) -> Path | None:
    """Return the mask that nnU-Net writes beside an npz."""
    name = path.name[: -len(NPZ)]
    return next((path.with_name(name + end) for end in SUFFIXES if path.with_name(name + end).is_file()), None)


def _npz(
    path: Path, target: Grid, label_names: Sequence[str], label_values: Sequence[int]
) -> tuple[NDArray[np.float32], Grid]:
    """Return the probabilities (K, *S) of an npz of nnU-Net, and their grid.

    nnU-Net stores axes slices first, (K, Z, Y, X), and pictures as (K, 1, rows, columns), without geometry: that is of
    the mask beside it, which must say the same, else of the image.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            name = next((name for name in ("probabilities", "softmax") if name in content), None)
            maps = None if name is None else np.asarray(content[name], np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise UserError(f"the npz must be readable, but reading it failed ({error}): write it again") from None
    if maps is None or maps.ndim != 4 or len(maps) != len(label_names):
        found = "none" if maps is None else f"shape {maps.shape}"
        raise UserError(
            f"an npz must hold `probabilities` of {len(label_names)} classes, (K, Z, Y, X), but has {found}: "
            "train nnU-Net without regions on these labels, or give its masks"
        )
    mask = _beside(path)
    grid = target if mask is None else grid_of(mask)
    turned = maps if grid.affine is None else maps.transpose(0, 3, 2, 1)
    slices = 1 if grid.affine is None else 3
    if len(grid.shape) == 2 and turned.shape[slices] == 1:
        turned = turned.squeeze(slices)
    if turned.shape[1:] != grid.shape:
        raise UserError(
            f"an npz must have the shape {grid.shape} of its mask or image, axes reversed, but has {maps.shape[1:]}: "
            "give the mask of the same prediction beside it"
        )
    if mask is not None:
        said, read = _ids(mask, label_values), turned.argmax(0)
        if (said != read).sum() > _DISAGREE * ((said > 0) | (read > 0)).sum():
            raise UserError("an npz must agree with the mask beside it, but does not: remove one of them")
    return _checked(turned), grid


def _checked(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    total = maps.sum(0)
    wrong = ~(np.minimum(np.abs(total - 1), np.abs(total)) <= _SUM) | (maps.min(0) < -_SUM)
    if wrong.any():
        raise UserError(
            f"probabilities must be from 0 up and sum to 1 over the classes, but {int(wrong.sum())} voxels do not: "
            "write them after the softmax, with the background"
        )
    return np.clip(maps, 0, 1)


def reading_name(text: str) -> str:
    """Return a member's name if it can stand in file names and in the flag column; else raise `UserError`."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise UserError(
            f"a member's name must be letters, digits, '_', '.' and '-', the first not one of the last two, but got "
            f"'{text}': rename it"
        )
    return text
