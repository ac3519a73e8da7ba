"""Reading new images with a package, and measuring masks that anyone made."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.data.checks import affine_problems, check_case
from overread.data.images import SUFFIXES, inspect_header, read_label, stem, suffix
from overread.data.layouts import read_dataset
from overread.data.prepare import MapCases, annotated, truth_of
from overread.data.preprocess import to_class_ids
from overread.ensemble.annotators import AnnotatorTable, agreement_of, annotator_tables
from overread.ensemble.evaluate import EvaluationTable, check_metrics, evaluate_instances, evaluate_readings
from overread.ensemble.package import CONFIDENCE, load_judgement, load_package
from overread.errors import UserError
from overread.metrics.overlap import Ids
from overread.metrics.surface import SURFACE_METRICS, TOLERANCE, Spacing, common_unit
from overread.pipeline.folders import RunFolder, restore_folder
from overread.pipeline.importing import import_readings
from overread.pipeline.page import write_page
from overread.pipeline.reading import CaseResult, ReadItem, with_guests
from overread.pipeline.stages import load_results, read_items
from overread.pipeline.summary import RunSummary
from overread.records import Case, Dataset, Manifest, PrepareSettings
from overread.review.page_data import PictureLimits

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
PACKAGE_COPY = "package.json"
"""Manifest of the package that read a folder, and its mark: --overwrite deletes no folder without it. Not named as the
manifest of a package, which must never be taken for a prediction folder."""
log = logging.getLogger(__name__)


def predict_folder(
    package: Path,
    images: Path,
    out: Path,
    map_cases: MapCases,
    *,
    probabilities: bool = False,
    gpus: float = 0.0,
    overwrite: bool = False,
    members: Mapping[str, Path] | None = None,
) -> list[CaseResult]:
    """Read every image of a folder with a package into a prediction folder with its report.

    `members` are folders of readings of these images, for the imported members of the package and for guests, which
    vote too. The package, every image and every reading are checked before anything is written or deleted.
    """
    manifest = load_package(package).manifest
    cases = find_images(images, len(manifest.preprocessing.channels))
    _check_free(out, overwrite)
    check_images(images, cases, manifest, map_cases)
    readings = import_readings(manifest, cases, members or {}, map_cases)
    known = {member.name for member in manifest.imported}
    guests = tuple(name for name in members or {} if name not in known)
    manifest = with_guests(manifest, guests)
    if out.exists() and overwrite:
        shutil.rmtree(out)
    manifest.save(out / PACKAGE_COPY)
    items = [
        ReadItem(
            case=case,
            files=files,
            package=str(package.resolve()),
            out=str(out.resolve()),
            probabilities=probabilities,
            gpus=gpus,
            imported=readings.get(case, {}),
            guests=guests,
        )
        for case, files in cases.items()
    ]
    judgement = load_judgement(package, manifest)
    if judgement is not None and guests:
        log.warning("predicted_dice and dice_lower_bound stay empty: the package was calibrated without its guests")
        judgement = None
    if judgement is not None:  # so that the report can be written again without the package
        judgement.save(out / CONFIDENCE)
    results = read_items(items, manifest, out, map_cases, judgement)
    write_page(out / "report.html", manifest, results, out, judgement=judgement)
    return results


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} must not exist yet, but it does: give --overwrite or another --out")
    if not (out / PACKAGE_COPY).is_file():
        raise UserError(f"--overwrite deletes only prediction folders, but {out} is none: delete it yourself")


def find_images(folder: Path, channels: int) -> dict[str, tuple[str, ...]]:
    """Return the files of every case of a flat folder, channel by channel; all problems come in one `UserError`.

    Files `NAME_0000`, `NAME_0001`, ... are the channels of case NAME where they are exactly as many as the package
    has; otherwise each is a case by its whole name, with all channels in the file.
    """
    if not folder.is_dir():
        raise UserError(f"--images must be a folder, but {folder} is none: check the path")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and suffix(path) and path.name[0] != "."]
    if not files:
        raise UserError(f"{folder} must hold images ({', '.join(SUFFIXES)}), but it holds none: check the path")
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for path in files:
        if match := CHANNEL.match(stem(path)):
            numbered.setdefault(match["case"], []).append((int(match["channel"]), path))
    complete = {
        case: [path for _, path in sorted(parts)]
        for case, parts in numbered.items()
        if sorted(number for number, _ in parts) == list(range(channels))
    }
    parts_of_cases = {path for parts in complete.values() for path in parts}
    found = [*complete.items(), *((stem(path), [path]) for path in files if path not in parts_of_cases)]
    _check_names(found)
    return {case: tuple(str(path.resolve()) for path in parts) for case, parts in sorted(found)}


def _check_names(found: Sequence[tuple[str, list[Path]]]) -> None:
    by_case: dict[str, list[str]] = {}
    for case, parts in found:
        by_case.setdefault(case, []).append(parts[0].name)
    problems = [
        f"case {case}: names must be unique, but {' and '.join(names)} are both this case: rename one"
        for case, names in by_case.items()
        if len(names) > 1
    ]
    if problems:
        raise UserError(*problems)


@dataclass(frozen=True)
class ImageTask:
    """One new case to check against the channels and axes of a package."""

    dataset: Dataset
    case: Case


def check_images(folder: Path, cases: Mapping[str, Sequence[str]], manifest: Manifest, map_cases: MapCases) -> None:
    """Look into every image; raise one `UserError` with a line for each case that cannot be read."""
    dataset = Dataset(
        name=manifest.name,
        root=str(folder.resolve()),
        layout="folder",
        spatial_dims=manifest.preprocessing.spatial_dims,
        channels=manifest.preprocessing.channels,
        label_names=manifest.label_names,
        label_values=manifest.label_values,
        cases=(),
    )
    tasks = [
        ImageTask(dataset, Case(id=case, group=case, channels=tuple(Path(name).name for name in files)))
        for case, files in cases.items()
    ]
    problems = [line for line in map_cases(check_image, tasks, "Checking images") if line]
    if problems:
        raise UserError(*problems)


def check_image(task: ImageTask) -> str:
    """Return all problems of one case as one line, or nothing."""
    start = f"case {task.case.id}: "
    problems = check_case(task.dataset, task.case)
    return start + "; ".join(problem.removeprefix(start) for problem in problems) if problems else ""


def evaluate_masks(
    predictions: Path,
    data: Path,
    metrics: tuple[str, ...],
    *,
    truth: PrepareSettings | None = None,
    allow_missing: bool = False,
    tolerance: float = TOLERANCE,
) -> EvaluationTable:
    """Measure the masks of a folder (or its `masks/`) against the labels of a data set, by case name.

    Where several annotated a case its mask is also held against each of them.
    Distances, and the `tolerance` of the NSD, are in mm where the spacing of all cases is known, else in pixels or
    voxels.

    The truth of several annotators follows the rule of the preparation: `truth.reference`, else the majority per
    voxel. Ids of single objects in the `instances/` of the folder are measured against those of the data set. Labelled
    cases without a mask, or ids, raise `UserError` unless `allow_missing`; then their number is logged.
    """
    check_metrics(metrics)
    dataset = read_dataset(data)
    folder = predictions / "masks" if (predictions / "masks").is_dir() else predictions
    masks = _by_case(folder)
    cases = [case for case in dataset.cases if case.id in masks]
    if not cases:
        raise UserError(f"{folder} must hold masks named as cases of {data}, but none is: check both paths")
    _tell_missing(folder, "mask", dataset.cases, masks, allow_missing=allow_missing)
    read = partial(_mask_and_truth, dataset, masks, truth or PrepareSettings())
    spacings = _spacings(dataset, cases) if any(name in SURFACE_METRICS for name in metrics) else None
    pairs = _named(cases, read)
    table = evaluate_readings(pairs, dataset.label_names, metrics, tolerance=tolerance, spacings=spacings)
    table = replace(table, annotators=_annotators(dataset, cases, masks, truth or PrepareSettings()))
    ids = _by_case(predictions / "instances")
    numbered = [case for case in cases if case.instances is not None]
    if ids and not numbered:
        log.warning("%s holds instances, but %s has none: they are not measured", predictions, data)
    if not ids or not numbered:
        return table
    _tell_missing(predictions / "instances", "mask of ids", numbered, ids, allow_missing=allow_missing)
    objects = _named([case for case in numbered if case.id in ids], partial(_found_and_true, dataset, ids))
    return replace(table, instances=evaluate_instances(objects))


def _annotators(
    dataset: Dataset, cases: Sequence[Case], masks: Mapping[str, Path], settings: PrepareSettings
) -> tuple[AnnotatorTable, ...]:
    """Return the tables of the masks that were read as class ids before, against everyone who annotated their cases."""
    found, groups = [], []
    for case in cases:
        annotations = annotated(_labels(dataset, case), settings)
        if len(annotations) > 1:
            found.append(agreement_of(_ids(masks[case.id], dataset), annotations, dataset.label_names))
            groups.append(case.group)
    return annotator_tables(found, groups)


def _labels(dataset: Dataset, case: Case) -> dict[str, NDArray[np.uint8]]:
    """Return the class ids of a case by annotator."""
    return {name: _ids(Path(dataset.root) / file, dataset) for name, file in sorted(case.labels.items())}


def _spacings(dataset: Dataset, cases: Sequence[Case]) -> dict[str, Spacing]:
    """Return the spacing of every case's label; of none unless all are known: distances have one unit."""
    root = Path(dataset.root)
    found = {case.id: inspect_header(root / next(iter(case.labels.values()))).spacing for case in cases}
    if common_unit(found.values(), dataset.spatial_dims) == "mm":
        return dict(found)
    if any(spacing is not None for spacing in found.values()):
        log.warning("some cases have no spacing: distances of all are in %s", common_unit([None], dataset.spatial_dims))
    return {}


def _by_case(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by the name of their case; none of a folder that is not there."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {stem(path): path for path in files if path.is_file() and suffix(path)}


def _tell_missing(
    folder: Path, what: str, cases: Sequence[Case], files: Mapping[str, Path], *, allow_missing: bool
) -> None:
    """Raise `UserError` for cases without a file, or log their number if they may be missing."""
    missing = [case.id for case in cases if case.id not in files]
    if missing and not allow_missing:
        raise UserError(
            f"{folder} must hold a {what} of every labelled case, but {len(missing)} of {len(cases)} have none "
            f"({', '.join(missing)}): add them, or give --allow-missing to measure the others"
        )
    if missing:
        log.warning("%d of %d labelled cases have no %s and are not measured", len(missing), len(cases), what)


def _found_and_true(dataset: Dataset, files: Mapping[str, Path], case: Case) -> tuple[Ids, Ids]:
    """Return the ids found and the true ids of a case on one grid."""
    found, true = read_label(files[case.id]), read_label(Path(dataset.root) / str(case.instances))
    if found.shape != true.shape:
        raise UserError(f"mask of ids must have the shape {true.shape} of the true ids, but has {found.shape}")
    return found, true


def _named(cases: Sequence[Case], read: Callable[[Case], tuple[Ids, Ids]]) -> Iterator[tuple[str, Ids, Ids]]:
    """Yield (case id, mask, truth) of all cases that can be read; those that cannot are raised together at the end."""
    problems: list[str] = []
    for case in cases:
        start = f"case {case.id}: "
        try:
            mask, truth = read(case)
        except UserError as error:
            problems += [start + problem.removeprefix(start) for problem in error.problems]
        else:
            yield case.id, mask, truth
    if problems:
        raise UserError(*problems)


def _mask_and_truth(
    dataset: Dataset, masks: Mapping[str, Path], settings: PrepareSettings, case: Case
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return class ids of the mask and the truth of a case on one grid."""
    root = Path(dataset.root)
    reference = settings.reference
    if reference is not None and reference not in case.labels:
        raise UserError(
            f"the reference annotator must be one of {', '.join(sorted(case.labels))}, but got '{reference}'"
        )
    labels = _labels(dataset, case)
    mask = _ids(masks[case.id], dataset)
    grids = {name: label.shape for name, label in labels.items() if label.shape != mask.shape}
    if grids:
        raise UserError(f"mask must have the shape of its labels, but has {mask.shape} and these have {grids}")
    grid = inspect_header(root / next(iter(case.labels.values())))
    affine = inspect_header(masks[case.id]).affine
    if problems := affine_problems(case, masks[case.id].name, affine, grid, of="the label"):
        raise UserError(*problems)
    return mask, truth_of(annotated(labels, settings), reference, len(dataset.label_names))


def _ids(path: Path, dataset: Dataset) -> NDArray[np.uint8]:
    try:
        return to_class_ids(read_label(path), dataset.label_values)
    except UserError as error:
        problems = [text if str(path) in text else f"{path}: {text}" for text in error.problems]
        raise UserError(*problems) from None


def rewrite_report(folder: Path, limits: PictureLimits | None = None, failure_dice: float | None = None) -> Path:
    """Write the report of a run folder or of a prediction folder again; return its path.

    `failure_dice` as in `page.write_page`.
    """
    write = partial(write_page, limits=limits, failure_dice=failure_dice)
    run = RunFolder(folder)
    if run.results.is_file():
        restore_folder(run.ensemble)
        manifest = Manifest.load(run.ensemble / "manifest.json")
        results, summary = load_results(run.predictions), RunSummary.load(run.summary)
        judgement = load_judgement(run.ensemble, manifest)
        write(run.report, manifest, results, run.predictions, summary, judgement=judgement)
        return run.report
    if not (folder / "results.json").is_file():
        raise UserError(f"{folder} must be a run or prediction folder with results, but it has none: evaluate first")
    manifest, results = Manifest.load(folder / PACKAGE_COPY), load_results(folder)
    judgement = load_judgement(folder, manifest)
    write(folder / "report.html", manifest, results, folder, judgement=judgement)
    return folder / "report.html"
