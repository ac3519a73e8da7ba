"""What must hold inside the files of a data set before anything is prepared from them.

Each check returns its problems instead of raising, so that `overread prepare` reports those of all cases at once.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from overread.data import images
from overread.data.images import Header
from overread.errors import UserError
from overread.records import Case, Dataset

Result = TypeVar("Result")
_AFFINE_TOLERANCE = 0.1  # voxels: rounding of headers stays far below, a wrong grid far above
_INSTANCES_APART = 0.01
"""Share of the pixels of mask and instances that may be in one of the two only: drawn borders, not another image."""
_LEAST_SHARED = 3
"""Cases that an annotator must share with others before all being apart says anything."""


def check_case(dataset: Dataset, case: Case) -> tuple[str, ...]:
    """Return the problems of one case, one line each; an empty tuple means that it can be prepared."""
    root = Path(dataset.root)
    problems: list[str] = []
    headers = [_guard(case, problems, root, path, images.inspect_header) for path in case.channels]
    grid = next((header for header in headers if header is not None), None)
    if all(header is not None for header in headers) and grid is not None:
        problems += _image_problems(dataset, case, [header for header in headers if header is not None])
        for path in case.channels:
            image = _guard(case, problems, root, path, lambda file: images.read_image([file]))
            if image is not None:
                problems += _finite(case, path, image.array)
    for path in case.labels.values():
        problems += _label_problems(dataset, case, path, grid)
    if case.instances is not None:
        problems += _instance_problems(case, case.instances, root, grid)
    return tuple(problems)


def _guard(case: Case, problems: list[str], root: Path, path: str, read: Callable[[Path], Result]) -> Result | None:
    """Read a file; note the problems of an unreadable one, by case and relative path."""
    try:
        return read(root / path)
    except UserError as error:
        lines = [f"case {case.id}: {line.replace(str(root / path), path)}" for line in error.problems]
        problems += [line for line in lines if line not in problems]
    except MemoryError:
        problems.append(f"case {case.id}: {path} must fit into memory, but does not: crop or resample it")
    return None


def _image_problems(dataset: Dataset, case: Case, headers: list[Header]) -> list[str]:
    problems = []
    first = headers[0]
    channels = sum(header.channels for header in headers)
    if channels != len(dataset.channels):
        problems.append(
            f"case {case.id}: image must have {len(dataset.channels)} channels {list(dataset.channels)}, "
            f"but has {channels}: convert it or correct the channel names"
        )
    if len(first.shape) != dataset.spatial_dims:
        problems.append(
            f"case {case.id}: image must have {dataset.spatial_dims} axes like the other images, but has shape "
            f"{first.shape}: keep images and volumes apart"
        )
    for path, header in zip(case.channels[1:], headers[1:], strict=True):
        if header.shape != first.shape:
            problems.append(_shape_problem(case, path, header.shape, first.shape))
        else:
            problems += affine_problems(case, path, header.affine, first)
    return problems


def _label_problems(dataset: Dataset, case: Case, path: str, grid: Header | None) -> list[str]:
    problems: list[str] = []
    root = Path(dataset.root)
    header = _guard(case, problems, root, path, images.inspect_header)
    label = _guard(case, problems, root, path, images.read_label) if header is not None else None
    if header is None or label is None:
        return problems
    if grid is not None and label.shape != grid.shape:
        problems.append(_shape_problem(case, path, label.shape, grid.shape))
    elif grid is not None:
        problems += affine_problems(case, path, header.affine, grid)
    unknown = sorted(set(np.unique(label).tolist()) - set(dataset.label_values))
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        source = "of the masks" if dataset.layout == "folder" else "in dataset.json"
        problems.append(
            f"case {case.id}: {path} must hold only the label values {list(dataset.label_values)} {source}, "
            f"but holds {shown}: correct the label or name the value"
        )
    return problems


def _instance_problems(case: Case, path: str, root: Path, grid: Header | None) -> list[str]:
    """Hold instance ids against the image's shape and the foreground of its label (several annotators: of any)."""
    problems: list[str] = []
    instances = _guard(case, problems, root, path, images.read_label)
    if instances is None:
        return problems
    if grid is not None and instances.shape != grid.shape:
        return [*problems, _shape_problem(case, path, instances.shape, grid.shape)]
    labels = [_guard(case, [], root, label, images.read_label) for label in case.labels.values()]
    known = [label > 0 for label in labels if label is not None and label.shape == instances.shape]
    if not known or len(known) < len(case.labels):
        return problems  # the label's own problem is told
    foreground, found = np.logical_or.reduce(known), instances > 0
    apart, union = int((foreground != found).sum()), int((foreground | found).sum())
    if apart > _INSTANCES_APART * union:
        problems.append(
            f"case {case.id}: the ids of {path} must mark the foreground of the mask, but {apart} of {union} pixels "
            "are in one of the two only: correct the mask or the ids"
        )
    return problems


def apart_from_others(dataset: Dataset, case: Case) -> dict[str, bool]:
    """Return of each annotator who marked something in a sound case whether it shares no voxel with the others.

    Only where another annotator marked something too: there is nothing to share otherwise.
    """
    if len(case.labels) < 2:
        return {}
    masks = {name: images.read_label(Path(dataset.root) / path) > 0 for name, path in case.labels.items()}
    drawn = {name: mask for name, mask in masks.items() if mask.any()}
    marks = np.sum([mask.astype(np.int32) for mask in drawn.values()], axis=0) if len(drawn) > 1 else None
    return {} if marks is None else {name: not bool((marks[mask] > 1).any()) for name, mask in drawn.items()}


def annotator_problems(cases: Iterable[Mapping[str, bool]]) -> list[str]:
    """Return one line for each annotator who, in most cases, marks nothing that the others do: of other images.

    `cases` are `apart_from_others` of each. Two annotators may mark two places of one image, so single cases say
    nothing.
    """
    told: dict[str, list[bool]] = defaultdict(list)
    for case in cases:
        for name, apart in case.items():
            told[name].append(apart)
    return [
        f"annotator {name}: masks must be of the images that the others saw, but in {sum(apart)} of {len(apart)} cases "
        "they share no voxel with any other's: check the file names, or leave the annotator out"
        for name, apart in sorted(told.items())
        if len(apart) >= _LEAST_SHARED and 2 * sum(apart) > len(apart)
    ]


def _finite(case: Case, path: str, array: np.ndarray) -> list[str]:
    wrong = int(array.size - np.isfinite(array).sum())
    if not wrong:
        return []
    return [f"case {case.id}: {path} must hold finite values, but {wrong} voxels are NaN or infinite: replace them"]


def _shape_problem(case: Case, path: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return f"case {case.id}: {path} must have the image's shape {wanted}, but has {found}: resample it to the image"


def affine_problems(case: Case, path: str, affine: np.ndarray | None, grid: Header, of: str = "the image") -> list[str]:
    """Hold the geometry of a file against that of `of` at the corners of its grid, in units of the smallest voxel."""
    if affine is None or grid.affine is None:
        return []
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*[(0.0, n - 1.0) for n in _three(grid.shape)])])
    shift = float(np.linalg.norm((corners @ (affine - grid.affine).T)[:, :3], axis=1).max())
    voxel = float(np.linalg.norm(grid.affine[:3, :3], axis=0).min())
    if np.isfinite(shift) and shift <= _AFFINE_TOLERANCE * voxel:
        return []
    return [
        f"case {case.id}: {path} must have {of}'s affine, but its corners lie up to {shift:.3g} world units away: "
        f"resample it to {of} or correct the header"
    ]


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1)[:3]
