"""The figures that the papers print, as CSV: table, model, dataset, metric, mean, sd.

All are per cent, but HD95 is in voxels; empty: not printed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from overread.review.words import NOTHING


@cache
def printed(paper: str) -> dict[tuple[str, str, str, str], tuple[float, float | None]]:
    """Return (mean, sd) as printed by (table, model, dataset, metric) of a paper."""
    text = (files(__package__) / f"{paper}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {
        (row["table"], row["model"], row["dataset"], row["metric"]): (
            float(row["mean"]),
            float(row["sd"]) if row["sd"] else None,
        )
        for row in rows
    }


def paper_dataset(names: Mapping[str, str], dataset: str) -> str | None:
    """Return a paper's name of a data set, or None for one that it did not use.

    Args:
        names: Part of a data set's name (in lower case) to the paper's name of it.
        dataset: Name of the data set.

    """
    return next((theirs for part, theirs in names.items() if part in dataset.lower()), None)


def printed_text(paper: str, table: str, model: str, dataset: str | None, metric: str) -> str:
    """Return `mean±sd` (or the mean alone) as printed, or a dash where the paper prints none."""
    found = printed(paper).get((table, model, dataset or "", metric))
    if found is None:
        return NOTHING
    mean, sd = found
    return f"{mean:.2f}" + ("" if sd is None else f"±{sd:.2f}")
