"""Groups of cases that no split may part: patients, and clusters of near-duplicate images.

A group comes from `groups.csv` (columns case,group), else from a pattern, else from well-known names, else it is the
case itself. Near-duplicates are found on small high-passed thumbnails: coarse brightness, which all images of one organ
share, is removed, so that what is left correlates only between copies, crops with calipers, and neighbouring frames.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from overread.errors import UserError
from overread.records import Case, Dataset

TABLE = "groups.csv"
DUPLICATE_CORRELATION = 0.77
"""Measured: BUSI 129 pairs (by eye still true at 0.6, with shifts), LIDC 2 (neighbouring nodules), ACDC 4 between two
patients that are copies of each other, Hippocampus, DSB2018 and QUBIQ none (QUBIQ has a false one at 0.76)."""
_THUMBNAIL = 32
_THUMBNAIL_SLICES = 4
_HIGH_PASS = 3.0  # thumbnail pixels
_BLOCK = 1024  # rows of the correlation matrix held at a time

_KNOWN_NAMES = (
    re.compile(r"^(patient[-_]?\d+)(?=[-_.]|$)", re.IGNORECASE),  # ACDC: patient001_frame01
    re.compile(r"^(sub-[A-Za-z0-9]+)(?=_|$)"),  # BIDS: sub-01_ses-02
    re.compile(r"^(LIDC-IDRI-\d+)"),
    re.compile(r"^(TCGA-\w{2}-\w{4})"),
    re.compile(r"^((?:subject|subj|pat|pid)[-_]?\d+)(?=[-_.]|$)", re.IGNORECASE),
    re.compile(r"^(.+?)[-_](?:frame|slice|time|visit|ses)[-_]?\d+$", re.IGNORECASE),
)


def assign_groups(dataset: Dataset, pattern: str | None = None) -> Dataset:
    """Return the data set with the group of every case filled in.

    `pattern` is a regular expression searched in the case id; its first group, or else the whole match, is the group.
    Raises `UserError` listing all problems of `groups.csv`, or a pattern that is no expression or misses a case.
    """
    table_path = Path(dataset.root) / TABLE
    table = read_groups(table_path, dataset) if table_path.is_file() else {}
    if not table and pattern is not None:
        table = _by_pattern(dataset, pattern)
    return replace(
        dataset,
        cases=tuple(replace(case, group=table.get(case.id) or known_group(case.id)) for case in dataset.cases),
        unlabelled=tuple(
            replace(case, group=table.get(case.id) or known_group(case.id)) for case in dataset.unlabelled
        ),
    )


def known_group(case_id: str) -> str:
    """Return the patient in a well-known name, or the case id itself."""
    for known in _KNOWN_NAMES:
        if match := known.search(case_id):
            return match.group(1)
    return case_id


def read_groups(path: Path, dataset: Dataset) -> dict[str, str]:
    """Return the group by case id of a `groups.csv`; raises `UserError` with every problem of the table."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} must be a UTF-8 table, but reading failed ({error}): save it as CSV") from None
    if not rows or not {"case", "group"} <= set(rows[0]):
        found = list(rows[0]) if rows else []
        raise UserError(
            f"{path} must have the columns case,group and a row per case, but has columns {found}: add them"
        )
    known = {case.id for case in (*dataset.cases, *dataset.unlabelled)}
    groups: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        case, group = (row["case"] or "").strip(), (row["group"] or "").strip()
        if case not in known:
            problems.append(
                f"{path} line {number}: case '{case}' must be in the data set, but it is not: correct the row"
            )
        elif not group:
            problems.append(f"{path} line {number}: case '{case}' must have a group, but has none: fill it in")
        elif groups.setdefault(case, group) != group:
            problems.append(f"{path} line {number}: case '{case}' must have one group, but has '{groups[case]}' too")
    named = {(row["case"] or "").strip() for row in rows}
    problems += [
        f"{path} must name every case, but lacks '{case.id}': add a row"
        for case in dataset.cases
        if case.id not in named
    ]
    if problems:
        raise UserError(*problems)
    return groups


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small normalised picture of an image (C, H, W) or (C, D, H, W): float32 (1 or 4, 32, 32), norm 1.

    An image without any contrast gives zeros, which correlate with nothing.
    """
    grey = np.asarray(image, dtype=np.float32).mean(axis=0)
    volume = grey[None] if grey.ndim == 2 else grey
    depth = 1 if volume.shape[0] == 1 else _THUMBNAIL_SLICES
    small = _resample(volume, (depth, _THUMBNAIL, _THUMBNAIL))
    detail = small - ndimage.gaussian_filter(small, (0, _HIGH_PASS, _HIGH_PASS))
    detail = detail - detail.mean()
    norm = float(np.linalg.norm(detail))
    # relative bound: float rounding of a flat image is no detail
    flat = norm <= 1e-4 * (float(np.abs(small).max()) * np.sqrt(small.size) + 1e-12)
    return np.zeros_like(detail) if flat else (detail / norm).astype(np.float32)


def near_duplicates(
    thumbnails: Mapping[str, np.ndarray], threshold: float = DUPLICATE_CORRELATION
) -> list[tuple[str, str]]:
    """Return the pairs of case ids whose thumbnails correlate above `threshold`, sorted, each once."""
    pairs: list[tuple[str, str]] = []
    for shape in sorted({picture.shape for picture in thumbnails.values()}):
        names = sorted(name for name, picture in thumbnails.items() if picture.shape == shape)
        vectors = np.stack([thumbnails[name].ravel() for name in names])
        for start in range(0, len(names), _BLOCK):
            correlation = vectors[start : start + _BLOCK] @ vectors.T
            rows, columns = np.nonzero(correlation > threshold)
            pairs += [(names[start + i], names[j]) for i, j in zip(rows, columns, strict=True) if start + i < j]
    return sorted(pairs)


def merge_groups(dataset: Dataset, pairs: Iterable[tuple[str, str]]) -> Dataset:
    """Return the data set with the groups of each pair of cases joined; a joined group has its smallest name."""
    group_of = {case.id: case.group for case in (*dataset.cases, *dataset.unlabelled)}
    parent = {group: group for group in group_of.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for pair in pairs:
        low, high = sorted(root(group_of[case]) for case in pair)
        parent[high] = low

    def joined(case: Case) -> Case:
        return replace(case, group=root(case.group))

    return replace(
        dataset,
        cases=tuple(joined(case) for case in dataset.cases),
        unlabelled=tuple(joined(case) for case in dataset.unlabelled),
    )


def _by_pattern(dataset: Dataset, pattern: str) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group pattern must be a regular expression, but '{pattern}' is not ({error})") from None
    groups: dict[str, str] = {}
    for case in (*dataset.cases, *dataset.unlabelled):
        match = expression.search(case.id)
        groups[case.id] = (match.group(1) if match and expression.groups else match.group(0) if match else "") or ""
    missed = [case.id for case in dataset.cases if not groups[case.id]]
    if missed:
        raise UserError(
            f"group pattern '{pattern}' must match every case, but misses {len(missed)} (such as '{missed[0]}'): "
            "widen it or write groups.csv"
        )
    return groups


def _resample(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Average into bins, each axis in turn: antialiased, and quick for whole volumes; short axes are stretched."""
    for axis, (old, new) in enumerate(zip(volume.shape, shape, strict=True)):
        edges = np.linspace(0, old, new + 1)
        bins = [np.arange(int(low), max(int(low) + 1, int(np.ceil(high)))) for low, high in pairwise(edges)]
        volume = np.stack([volume.take(chosen, axis=axis).mean(axis=axis) for chosen in bins], axis=axis)
    return volume
