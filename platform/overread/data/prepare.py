"""`prepare_dataset`: check a data set, write its memory-mapped arrays and splits, once.

The result is a folder of the cache named by the SHA-256 of all files and settings. It is filled under a temporary name
and renamed, so a prepared folder is complete or absent, and a second run returns at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from overread.data.checks import annotator_problems, apart_from_others, check_case
from overread.data.groups import assign_groups, merge_groups, near_duplicates, thumbnail
from overread.data.hashing import content_key
from overread.data.images import read_image, read_label
from overread.data.layouts import scan_dataset
from overread.data.preprocess import (
    choose_preprocessing,
    kept_classes,
    preprocess_image,
    to_class_ids,
    to_prepared_mask,
)
from overread.data.splits import make_splits
from overread.data.store import MANIFEST, load_prepared
from overread.errors import UserError
from overread.records import Case, Dataset, Prepared, PreparedCase, PrepareSettings, Preprocessing, Splits

Result = TypeVar("Result")
MapCases = Callable[[Callable[[Any], Any], Sequence[Any], str], list[Any]]
"""Apply a module-level function to picklable items, with a title for the progress bar: `serial_map` or Ray tasks."""


def serial_map(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
    """Apply `function` to each item, one after the other."""
    return [function(item) for item in items]


def prepare_dataset(
    dataset_root: Path, settings: PrepareSettings, cache: Path, map_cases: MapCases = serial_map
) -> Prepared:
    """Return the prepared data set of a folder, from the cache if it is there.

    Every problem of every case is found before anything is written, and raised as one `UserError`.
    """
    root = dataset_root.resolve()
    key, folder = _place(dataset_root, settings, cache)
    if (folder / MANIFEST).is_file():
        return load_prepared(folder)
    dataset, preprocessing = check_dataset(root, settings, map_cases)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-", ignore_cleanup_errors=True) as name:
        partial = Path(name) / "prepared"
        prepared = _write_arrays(dataset, settings, preprocessing, partial, map_cases)
        replace(prepared, root=str(folder), content=key).save(partial / MANIFEST)
        _publish(partial, folder)
    return load_prepared(folder)


def find_prepared(dataset_root: Path, settings: PrepareSettings, cache: Path) -> Prepared | None:
    """Return the prepared data set of a folder if the cache has it."""
    _, folder = _place(dataset_root, settings, cache)
    return load_prepared(folder) if (folder / MANIFEST).is_file() else None


def _place(dataset_root: Path, settings: PrepareSettings, cache: Path) -> tuple[str, Path]:
    """Return the key of a data set and the folder of its arrays."""
    root = dataset_root.resolve()
    if not root.is_dir():
        raise UserError(f"the data set folder must exist, but {dataset_root} does not: check the path")
    key = content_key(root, settings.told, cache)
    return key, cache.resolve() / f"{root.name}-{key[:16]}"


def _publish(partial: Path, folder: Path) -> None:
    """Rename a complete folder to its final name; another process that was faster wins."""
    if folder.exists() and not (folder / MANIFEST).is_file():
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise


# ---------------------------------------------------------------- checks


@dataclass(frozen=True)
class CheckTask:
    """One case to check; `dataset` holds that case only, to stay small on its way to another process."""

    dataset: Dataset
    case: Case


@dataclass(frozen=True)
class CheckResult:
    """Problems of a case; if there are none, its native shape and spacing."""

    problems: tuple[str, ...]
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    apart: Mapping[str, bool] = field(default_factory=dict)
    """By annotator who marked something beside others: whether it shares no voxel with any of them."""


def check_dataset(
    root: Path, settings: PrepareSettings, map_cases: MapCases = serial_map
) -> tuple[Dataset, Preprocessing]:
    """Read and check a whole data set; return it and how to prepare it, or raise all problems at once."""
    found, structural = scan_dataset(root)
    if found is None:
        raise UserError(*structural)
    problems = list(structural)
    dataset = _collect(problems, lambda: assign_groups(found, settings.group_pattern)) or found
    cases = _cases(dataset, settings)
    tasks = [CheckTask(replace(dataset, cases=(case,), unlabelled=()), case) for case in cases]
    results: list[CheckResult] = map_cases(_check, tasks, "Checking cases")
    problems += [problem for result in results for problem in result.problems]
    problems += annotator_problems(result.apart for result in results)
    problems += _reference_problems(dataset, settings.reference)
    _collect(problems, lambda: kept_classes(dataset.label_values, settings.labels))
    _collect(problems, lambda: make_splits({case.id: case.group for case in dataset.cases}, settings))
    if problems:
        raise UserError(*dict.fromkeys(problems))
    spacings = [result.spacing for result in results]
    return dataset, choose_preprocessing(dataset, spacings, [result.shape for result in results], settings)


def _cases(dataset: Dataset, settings: PrepareSettings) -> tuple[Case, ...]:
    """Return the cases to prepare: the labelled ones first, and the unlabelled ones if wanted."""
    return dataset.cases + (dataset.unlabelled if settings.unlabelled else ())


def _collect(problems: list[str], step: Callable[[], Result]) -> Result | None:
    """Run a step; note its problems instead of raising them."""
    try:
        return step()
    except UserError as error:
        problems += error.problems
        return None


def _check(task: CheckTask) -> CheckResult:
    problems = check_case(task.dataset, task.case)
    if problems:
        return CheckResult(problems)
    native = read_image(_channel_paths(task.dataset, task.case))
    apart = apart_from_others(task.dataset, task.case)
    return CheckResult((), native.array.shape[1:], native.spacing, apart)


def _reference_problems(dataset: Dataset, reference: str | None) -> list[str]:
    if reference is None:
        return []
    known = sorted({annotator for case in dataset.cases for annotator in case.labels})
    if reference not in known:
        return [
            f"the reference annotator must be one of {', '.join(known)}, but got '{reference}': choose one of these"
        ]
    return [
        f"case {case.id}: must have a label by the reference annotator '{reference}', but has none: "
        "add the label or remove the case"
        for case in dataset.cases
        if reference not in case.labels
    ]


def _channel_paths(dataset: Dataset, case: Case) -> list[Path]:
    return [Path(dataset.root) / channel for channel in case.channels]


# ---------------------------------------------------------------- arrays


@dataclass(frozen=True)
class ArrayTask:
    """One case to prepare into `folder`."""

    dataset: Dataset
    case: Case
    index: int
    settings: PrepareSettings
    preprocessing: Preprocessing
    folder: str


def _write_arrays(
    dataset: Dataset, settings: PrepareSettings, preprocessing: Preprocessing, partial: Path, map_cases: MapCases
) -> Prepared:
    """Write the arrays of all cases; return the manifest, still without its place and key."""
    tasks = [
        ArrayTask(
            dataset=replace(dataset, cases=(case,), unlabelled=()),
            case=case,
            index=index,
            settings=settings,
            preprocessing=preprocessing,
            folder=str(partial / "cases" / f"{index:05d}"),
        )
        for index, case in enumerate(_cases(dataset, settings))
    ]
    results: list[tuple[PreparedCase, NDArray[np.float32]]] = map_cases(_prepare_case, tasks, "Preparing cases")
    group_of = {case.id: case.group for case, _ in results}
    similar = near_duplicates({case.id: small for case, small in results})
    pairs = [(first, second) for first, second in similar if group_of[first] != group_of[second]]
    merged = _joined(dataset, pairs)
    everything = tuple(replace(case, group=merged[case.id]) for case, _ in results)
    cases, unlabelled = everything[: len(dataset.cases)], everything[len(dataset.cases) :]
    groups = {case.id: case.group for case in cases}
    strata = {case.id: ",".join(map(str, case.foreground)) for case in cases}
    kept = kept_classes(dataset.label_values, settings.labels)
    names, values = tuple(dataset.label_names[k] for k in kept), tuple(dataset.label_values[k] for k in kept)
    if settings.merge_labels:
        names, values = ("background", "foreground"), (0, 1)
    return Prepared(
        root="",
        dataset=dataset.name,
        label_names=names,
        label_values=values,
        settings=settings,
        preprocessing=preprocessing,
        cases=cases,
        splits=_split(groups, settings, strata, len(pairs)),
        unlabelled=unlabelled,
        near_duplicates=tuple(pairs),
        content="",
    )


def _joined(dataset: Dataset, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the group of every case by id, near-duplicates together.

    The groups of labelled cases, and so the splits, do not depend on the unlabelled images; one of these has the group
    of a labelled case that it is joined to (where it is joined to several groups, of the first).
    """
    labelled = {case.id for case in dataset.cases}
    own = merge_groups(dataset, [pair for pair in pairs if labelled.issuperset(pair)])
    joined, groups = merge_groups(dataset, pairs), {case.id: case.group for case in own.cases}
    first: dict[str, str] = {}
    for case in sorted(joined.cases, key=lambda case: groups[case.id]):
        first.setdefault(case.group, groups[case.id])
    return groups | {case.id: first.get(case.group, case.group) for case in joined.unlabelled}


def _split(groups: dict[str, str], settings: PrepareSettings, strata: dict[str, str], pairs: int) -> Splits:
    try:
        return make_splits(groups, settings, strata)
    except UserError as error:
        hint = f" (counting {pairs} pairs of near-duplicate images as one group each)"
        raise UserError(*(problem + hint for problem in error.problems)) from None


def _prepare_case(task: ArrayTask) -> tuple[PreparedCase, NDArray[np.float32]]:
    """Write the arrays of one case; return its record and thumbnail."""
    native = read_image(_channel_paths(task.dataset, task.case))
    image = preprocess_image(native.array, task.preprocessing)
    folder = Path(task.folder)
    os.makedirs(folder)  # noqa: PTH103  (fails if another task has the same folder)
    np.save(folder / "image.npy", image)
    record = PreparedCase(
        index=task.index,
        id=task.case.id,
        group=task.case.group,
        native_shape=native.array.shape[1:],
        shape=(image.shape[1], image.shape[2], image.shape[3]),
        spacing=native.spacing,
        annotators=(),
        foreground=(),
    )
    if task.case.labels:
        record = _write_labels(task, record)
    if len(record.annotators) > 1:
        np.save(folder / "native.npy", native.array)  # for the intensities where annotators differ
    if task.case.instances is not None:
        instances = read_label(Path(task.dataset.root) / task.case.instances)
        np.save(folder / "native_instances.npy", instances)
        np.save(folder / "instances.npy", to_prepared_mask(instances, task.preprocessing))
        record = replace(record, instances=True)
    return record, thumbnail(image)


def _write_labels(task: ArrayTask, record: PreparedCase) -> PreparedCase:
    """Write labels and truth of a case; return its record with what they show."""
    labels = {
        annotator: to_class_ids(read_label(Path(task.dataset.root) / path), task.dataset.label_values)
        for annotator, path in sorted(task.case.labels.items())
    }
    kept = kept_classes(task.dataset.label_values, task.settings.labels)
    if len(kept) < len(task.dataset.label_values):
        ids = np.zeros(len(task.dataset.label_values), np.uint8)
        ids[list(kept)] = range(len(kept))
        labels = {annotator: ids[label] for annotator, label in labels.items()}
    if task.settings.merge_labels:
        labels = {annotator: (label > 0).astype(np.uint8) for annotator, label in labels.items()}
    labels = annotated(labels, task.settings)
    truth = truth_of(labels, task.settings.reference, len(kept))
    folder, prepared = Path(task.folder), [to_prepared_mask(label, task.preprocessing) for label in labels.values()]
    np.save(folder / "labels.npy", np.stack(prepared))
    np.save(folder / "truth.npy", truth)
    if len(labels) > 1:
        np.save(folder / "annotations.npy", np.stack(list(labels.values())))
    return replace(record, annotators=tuple(labels), foreground=tuple(int(k) for k in np.unique(truth) if k > 0))


def annotated(labels: dict[str, NDArray[np.uint8]], settings: PrepareSettings) -> dict[str, NDArray[np.uint8]]:
    """Return the labels that count: all, or with `empty_annotation="ignore"` the non-empty ones.

    Where every annotator left the case empty, or the empty one is the reference, empty is what they said: it stays.
    """
    if settings.empty_annotation == "background":
        return labels
    drawn = {name: label for name, label in labels.items() if label.any() or name == settings.reference}
    return drawn or labels


def truth_of(labels: dict[str, NDArray[np.uint8]], reference: str | None, classes: int) -> NDArray[np.uint8]:
    """Return the truth: the reference's label, else per voxel the class most annotators gave (ties: the lower id)."""
    if reference is not None:
        return labels[reference]
    masks = list(labels.values())
    if len(masks) == 1:
        return masks[0]
    votes = np.stack([sum(mask == k for mask in masks) for k in range(classes)])
    return votes.argmax(axis=0).astype(np.uint8)
