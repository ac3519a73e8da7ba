"""The data-set layouts that overread recognises by itself, read into a `Dataset`.

1. Medical Segmentation Decathlon: `dataset.json` with a `training` list, `imagesTr`, `labelsTr`, `imagesTs`.
2. nnU-Net v2 raw: `dataset.json` with `channel_names` and `file_ending`, files `case_0000.nii.gz` or `.png`.
3. Image folder: `images/NAME.png|jpg|tif|bmp`, `masks/NAME.*` (0/255 or class ids), optional `instances/NAME.png`.
4. Several annotators, in 2 or 3: one subfolder per annotator under `labelsTr` or `masks`; no file = did not annotate.

`scan_dataset` looks at names and the JSON (layout 3: also at the mask values) and collects every problem it meets;
`overread.data.checks` then looks into the files.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from overread.data import images
from overread.data.dataset_json import MANIFEST, channel_names, label_table, listed_file
from overread.data.groups import assign_groups
from overread.errors import UserError
from overread.jsonio import read_json
from overread.records import SINGLE_ANNOTATOR, Case, Dataset, Layout

_MOST_CLASSES = 64  # more values than this in masks are grey levels, not classes
_HELP = (
    "expected dataset.json with a 'training' list (Decathlon), dataset.json with 'channel_names' and 'file_ending' "
    "(nnU-Net v2), or the folders images/ and masks/"
)


def read_dataset(root: Path) -> Dataset:
    """Recognise the layout under `root` and return its cases sorted by id, groups filled in by their defaults.

    Raises `UserError` with all structural problems at once: an empty or unknown folder, missing images or labels,
    duplicate case names, files outside the folder, a broken `dataset.json` or `groups.csv`.
    """
    dataset, problems = scan_dataset(root)
    if problems or dataset is None:
        raise UserError(*problems)
    return dataset


def scan_dataset(root: Path) -> tuple[Dataset | None, tuple[str, ...]]:
    """Return the cases without structural problems, and the problems, so that both can be checked in one go.

    The data set is None where too little is known to go on (no layout, a broken `dataset.json`, no sound case).
    """
    try:
        found = _scan(root)
    except UserError as error:
        return None, error.problems
    if not found.cases:
        return None, tuple(found.problems or [f"{root} must hold at least one labelled case, but holds none: {_HELP}"])
    return _finish(root, found)


@dataclass(kw_only=True)
class _Found:
    """What a layout's reader collects; groups are filled in later."""

    layout: Layout
    name: str
    channels: tuple[str, ...]
    label_names: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    cases: list[Case] = field(default_factory=list)
    unlabelled: list[Case] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _scan(root: Path) -> _Found:
    if not root.is_dir():
        raise UserError(f"{root} must be a folder, but is not: give the folder of the data set")
    if not _entries(root):
        raise UserError(f"{root} must hold a data set, but the folder is empty: {_HELP}")
    if (root / MANIFEST).is_file():
        manifest = read_json(root / MANIFEST)
        if isinstance(manifest, Mapping) and isinstance(manifest.get("training"), list):
            return _read_decathlon(root, manifest)
        if isinstance(manifest, Mapping) and {"channel_names", "file_ending"} <= set(manifest):
            return _read_nnunet(root, manifest)
        raise UserError(f"{root / MANIFEST} must describe a known layout, but does not: {_HELP}")
    if (root / "images").is_dir() or (root / "masks").is_dir():
        return _read_folder(root)
    raise UserError(f"{root} must have a known layout, but has none: {_HELP}")


def _finish(root: Path, found: _Found) -> tuple[Dataset | None, tuple[str, ...]]:
    problems = found.problems
    counts = Counter(case.id for case in (*found.cases, *found.unlabelled))
    problems += [
        f"case {case}: names must be unique, but {count} cases have this one: rename them"
        for case, count in sorted(counts.items())
        if count > 1
    ]
    if not found.label_names:
        return None, tuple(problems)
    dataset = Dataset(
        name=found.name,
        root=str(root.resolve()),
        layout=found.layout,
        spatial_dims=_spatial_dims(root, found.cases),
        channels=found.channels,
        label_names=found.label_names,
        label_values=found.label_values,
        cases=tuple(sorted(found.cases, key=lambda case: case.id)),
        unlabelled=tuple(sorted(found.unlabelled, key=lambda case: case.id)),
    )
    try:
        return assign_groups(dataset, None), tuple(problems)
    except UserError as error:
        # a row for a case that was left out above is a follow-up of that problem, but still true: say both
        return dataset, (*problems, *error.problems)


def _spatial_dims(root: Path, cases: Sequence[Case]) -> int:
    """Return 2 or 3 from the first readable header; a NIfTI with two axes is an image."""
    for case in cases:
        try:
            return len(images.inspect_header(root / case.channels[0]).shape)
        except UserError:
            continue  # reported by the checks
    return 3 if images.suffix(cases[0].channels[0]).startswith(".nii") else 2


# ---------------------------------------------------------------- Medical Segmentation Decathlon


def _read_decathlon(root: Path, manifest: Mapping[str, Any]) -> _Found:
    names, values = label_table(root, manifest.get("labels"))
    channels = channel_names(root, manifest.get("modality", manifest.get("channel_names", {"0": "image"})), "modality")
    found = _Found(
        layout="msd",
        name=str(manifest.get("name") or root.resolve().name),
        channels=channels,
        label_names=names,
        label_values=values,
    )
    for number, entry in enumerate(manifest["training"], start=1):
        if not isinstance(entry, Mapping) or not {"image", "label"} <= set(entry):
            found.problems.append(f"{MANIFEST} training entry {number} must have 'image' and 'label': add them")
            continue
        image, label = (listed_file(root, str(entry[key]), key, found.problems) for key in ("image", "label"))
        if image and label:
            found.cases.append(_case(images.stem(image), (image,), {SINGLE_ANNOTATOR: label}))
    for image in _decathlon_test(root, manifest, found.problems):
        found.unlabelled.append(_case(images.stem(image), (image,)))
    return found


def _decathlon_test(root: Path, manifest: Mapping[str, Any], problems: list[str]) -> list[str]:
    """Return the unlabelled images. A test list whose folder was not downloaded at all is passed over."""
    folder = root / "imagesTs"
    listed = manifest.get("test")
    if not folder.is_dir():
        return []
    if not isinstance(listed, list) or not listed:
        return [f"imagesTs/{name}" for name in _files(folder)]
    names = [entry.get("image", "") if isinstance(entry, Mapping) else entry for entry in listed]
    paths = [listed_file(root, str(name), "image", problems) for name in names]
    return [path for path in paths if path]


# ---------------------------------------------------------------- nnU-Net v2


def _read_nnunet(root: Path, manifest: Mapping[str, Any]) -> _Found:
    names, values = label_table(root, manifest.get("labels"))
    channels = channel_names(root, manifest["channel_names"], "channel_names")
    ending = str(manifest["file_ending"])
    if ending.lower() not in images.SUFFIXES:
        raise UserError(
            f"{root / MANIFEST}: file_ending must be one of {', '.join(images.SUFFIXES)}, but is '{ending}': convert"
        )
    found = _Found(
        layout="nnunet",
        name=str(manifest.get("name") or root.resolve().name),
        channels=channels,
        label_names=names,
        label_values=values,
    )
    listed = _nnunet_images(root, "imagesTr", ending, channels, found.problems)
    labels = _annotations(root, "labelsTr", found.problems)
    _join(found, listed, labels, "imagesTr", "labelsTr")
    if (root / "imagesTs").is_dir():
        tests = _nnunet_images(root, "imagesTs", ending, channels, found.problems)
        found.unlabelled = [_case(case, files) for case, files in tests.items() if files]
    return found


def _nnunet_images(
    root: Path, folder: str, ending: str, channels: Sequence[str], problems: list[str]
) -> dict[str, tuple[str, ...]]:
    """Return the channel files by case id; a picture `case_0000` may hold all channels (red, green, blue)."""
    by_case: dict[str, dict[int, str]] = {}
    for name in _files(root / folder, problems):
        match = re.fullmatch(r"(.+)_(\d{4})" + re.escape(ending), name)
        if match is None:
            problems.append(f"{folder}/{name} must be named CASE_0000{ending}, but is not: rename or remove it")
            continue
        by_case.setdefault(match.group(1), {})[int(match.group(2))] = f"{folder}/{name}"
    complete: dict[str, tuple[str, ...]] = {}
    for case, files in by_case.items():
        if set(files) == {0} and len(channels) == 3 and ending.lower() in images.PICTURE_SUFFIXES:
            complete[case] = (files[0],)
        elif set(files) == set(range(len(channels))):
            complete[case] = tuple(files[index] for index in sorted(files))
        else:
            problems.append(
                f"case {case}: image channels 0..{len(channels) - 1} must exist in {folder}, but found "
                f"{sorted(files)}: add the missing image or correct channel_names"
            )
            complete[case] = ()
    return complete


# ---------------------------------------------------------------- image folder


def _read_folder(root: Path) -> _Found:
    found = _Found(layout="folder", name=root.resolve().name, channels=())
    pictures = _by_stem(root, "images", found.problems)
    labels = _annotations(root, "masks", found.problems)
    instances = _by_stem(root, "instances", found.problems) if (root / "instances").is_dir() else {}
    found.problems += [
        f"case {case}: image must exist in images/, but only {instances[case]} does: add or remove it"
        for case in sorted(set(instances) - set(pictures))
    ]
    _join(found, {case: (path,) for case, path in pictures.items()}, labels, "images", "masks", instances)
    if not found.cases:
        return found
    found.channels = _folder_channels(root, found.cases)
    try:
        found.label_names, found.label_values = _folder_labels(root, found.cases)
    except UserError as error:
        found.problems += error.problems
    return found


def _folder_channels(root: Path, cases: Sequence[Case]) -> tuple[str, ...]:
    """Return the channel names that most images have."""
    counts: Counter[int] = Counter()
    for case in cases:
        try:
            counts[images.inspect_header(root / case.channels[0]).channels] += 1
        except UserError:
            continue  # reported by the checks
    count = counts.most_common(1)[0][0] if counts else 1
    return ("red", "green", "blue") if count == 3 else ("grey",)


def _folder_labels(root: Path, cases: Sequence[Case]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return label names and values from the union over all masks: one foreground value, or class ids."""
    values: set[int] = {0}
    for case in cases:
        for path in case.labels.values():
            try:
                values |= set(np.unique(images.read_label(root / path)).tolist())
            except UserError:
                continue  # reported by the checks
        if len(values) > _MOST_CLASSES:
            raise UserError(
                f"masks must hold 0/255 or at most {_MOST_CLASSES} class ids, but up to case {case.id} hold "
                f"{len(values)} values: save them without smoothing"
            )
    foreground = sorted(values - {0})
    if not foreground:
        raise UserError("masks must show something in at least one case, but all are empty: check the masks")
    names = ("foreground",) if len(foreground) == 1 else tuple(f"class_{value}" for value in foreground)
    return ("background", *names), (0, *foreground)


# ---------------------------------------------------------------- shared


def _case(
    case: str, channels: tuple[str, ...], labels: dict[str, str] | None = None, instances: str | None = None
) -> Case:
    return Case(id=case, group=case, channels=channels, labels=labels or {}, instances=instances)


def _join(
    found: _Found,
    pictures: Mapping[str, tuple[str, ...]],
    labels: Mapping[str, dict[str, str]],
    image_folder: str,
    label_folder: str,
    instances: Mapping[str, str] | None = None,
) -> None:
    """Pair images with labels by name, and note what lacks its other half."""
    several = any(SINGLE_ANNOTATOR not in by_annotator for by_annotator in labels.values())
    for case in sorted(set(pictures) | set(labels)):
        if case not in labels and several:
            found.problems.append(
                f"case {case}: must have a label by at least one annotator in {label_folder}/, but none has it: add a "
                "label, empty if there is nothing to mark, or remove the image"
            )
        elif case not in labels:
            found.problems.append(f"case {case}: label must exist in {label_folder}/, but is missing: add it")
        elif case not in pictures:
            found.problems.append(f"case {case}: image must exist in {image_folder}/, but is missing: add it")
        elif pictures[case]:
            found.cases.append(_case(case, pictures[case], dict(labels[case]), (instances or {}).get(case)))


def _annotations(root: Path, folder: str, problems: list[str]) -> dict[str, dict[str, str]]:
    """Return label files by case and annotator, from the folder itself or from one subfolder per annotator."""
    subfolders = sorted(entry.name for entry in _entries(root / folder) if entry.is_dir())
    if subfolders and any(entry.is_file() for entry in _entries(root / folder)):
        problems.append(f"{folder}/ must hold label files or one folder per annotator, but holds both: move the files")
    labels: dict[str, dict[str, str]] = {}
    for subfolder in subfolders or [""]:
        for case, path in _by_stem(root, posixpath.join(folder, subfolder).rstrip("/"), problems).items():
            labels.setdefault(case, {})[subfolder or SINGLE_ANNOTATOR] = path
    return labels


def _by_stem(root: Path, folder: str, problems: list[str]) -> dict[str, str]:
    """Return the supported files of a folder by case name; other files and duplicate names are problems."""
    paths: dict[str, str] = {}
    for name in _files(root / folder, problems):
        case = images.stem(name)
        if not images.suffix(name):
            problems.append(
                f"{folder}/{name}: the format must be one of {', '.join(images.SUFFIXES)}: convert or remove it"
            )
        elif case in paths:
            problems.append(
                f"case {case}: names must be unique, but {paths[case]} and {folder}/{name} share it: rename one"
            )
        else:
            paths[case] = f"{folder}/{name}"
    return paths


def _files(folder: Path, problems: list[str] | None = None) -> list[str]:
    names = [entry.name for entry in _entries(folder) if entry.is_file()]
    if not names and problems is not None:
        state = "is empty" if folder.is_dir() else "does not exist"
        problems.append(f"{folder} must hold files, but {state}: add them")
    return names


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without hidden files (.DS_Store, ._copies)."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")) if folder.is_dir() else []
