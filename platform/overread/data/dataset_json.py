"""Entries of a `dataset.json` (Decathlon and nnU-Net v2), held against what overread can work with."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overread.data import images
from overread.errors import UserError

MANIFEST = "dataset.json"


def listed_file(root: Path, name: str, kind: str, problems: list[str]) -> str | None:
    """Return the normal form of a path in dataset.json, or None after noting what is wrong with it.

    Links inside the folder are followed: the user put them there. A path that leaves the folder came with the JSON.
    """
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith(("../", "/")) or path == ".." or re.match(r"^[A-Za-z]:", path):
        problems.append(f"{MANIFEST} must name files inside {root}, but names '{name}': correct the path")
        return None
    if not (root / path).is_file():
        problems.append(f"case {images.stem(path)}: {kind} {path} must exist, but is missing: restore it or its entry")
        return None
    return path


def label_table(root: Path, labels: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and values in order of value, from {"0": name} (Decathlon) or {name: 0} (nnU-Net)."""
    manifest = root / MANIFEST
    if not isinstance(labels, Mapping) or not labels:
        raise UserError(f"{manifest}: labels must name each value, but are {labels!r}: add them")
    table: dict[int, str] = {}
    for key, value in labels.items():
        pair = (value, key) if not str(key).strip().isdigit() else (key, value)
        try:
            number = int(pair[0])
        except (TypeError, ValueError):
            raise UserError(
                f"{manifest}: label '{key}' must have one whole value, but has {value!r}: "
                "regions are not supported, list plain classes"
            ) from None
        if number in table:
            raise UserError(f"{manifest}: label values must differ, but {number} is given twice: correct it")
        table[number] = str(pair[1])
    if len(table) < 2 or min(table) != 0 or len(set(table.values())) != len(table) or "ignore" in table.values():
        raise UserError(
            f"{manifest}: labels must be background 0 and at least one more, with distinct names and no 'ignore', "
            f"but are {table}: correct them"
        )
    return tuple(table[number] for number in sorted(table)), tuple(sorted(table))


def channel_names(root: Path, channels: Any, key: str) -> tuple[str, ...]:
    """Return channel names in order of their number, from {"0": name}."""
    numbers = [str(number) for number in range(len(channels))] if isinstance(channels, Mapping) else []
    if not numbers or not set(numbers) <= set(channels):
        raise UserError(f"{root / MANIFEST}: {key} must name channels 0, 1, ..., but is {channels!r}: correct it")
    return tuple(str(channels[number]) for number in numbers)
