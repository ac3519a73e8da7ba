"""The figures that the papers print, as CSV: table, model, dataset, metric, mean, sd (per cent)."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files


@cache
def printed(paper: str) -> dict[tuple[str, str, str, str], tuple[float, float]]:
    """Return (mean, sd) in per cent by (table, model, dataset, metric) of a paper."""
    text = (files(__package__) / f"{paper}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {
        (row["table"], row["model"], row["dataset"], row["metric"]): (float(row["mean"]), float(row["sd"]))
        for row in rows
    }


def printed_text(paper: str, table: str, model: str, dataset: str | None, metric: str) -> str:
    """Return `mean±sd` as printed, or a dash where the paper prints none."""
    found = printed(paper).get((table, model, dataset or "", metric))
    return "–" if found is None else f"{found[0]:.2f}±{found[1]:.2f}"  # noqa: RUF001
