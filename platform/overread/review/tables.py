"""Tables that are read in a terminal, pasted as Markdown or opened as CSV, and the leaderboard of a search."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from overread.jsonio import write_bytes
from overread.review.words import number

if TYPE_CHECKING:
    from rich.table import Table

    from overread.ensemble.annotators import AnnotatorTable


@dataclass(frozen=True)
class Grid:
    """A table of texts: `columns` by `rows`; columns from `left` on are figures and align right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""
    """Said below it, in Markdown and in a terminal."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"rows must have {len(self.columns)} texts, but got {wrong[0]}")

    def rich(self) -> Table:
        """Return the table for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for index, column in enumerate(self.columns):
            # Folded, not cut: a name that is shown is a name to type.
            table.add_column(column, justify="left" if index < self.left else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row))  # Text: a name with [brackets] is not markup
        return table

    def csv(self) -> str:
        """Return the table as CSV, without its title."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        """Return the table as Markdown, without its title; the note is a paragraph after it."""
        rule = ["---" if index < self.left else "---:" for index in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        text = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"
        return f"{text}\n{self.note}\n" if self.note else text


def write_tables(grids: Sequence[Grid], folder: Path) -> list[str]:
    """Write each table as `NN-title.csv` and `.md`; return them in Markdown, with their titles as headings.

    Titles may tell what was compared, so tables of an earlier call that are not written again are removed.
    """
    parts, written = [], set[str]()
    for place, grid in enumerate(grids, start=1):
        stem = f"{place:02d}-{_stem(grid.title)}"
        parts.append(f"## {grid.title}\n\n{grid.markdown()}")
        for name, content in ((f"{stem}.csv", grid.csv()), (f"{stem}.md", parts[-1])):
            write_bytes(folder / name, content.encode())
            written.add(name)
    for old in folder.glob("[0-9][0-9]-*"):
        if old.name not in written:
            old.unlink()
    return parts


def _stem(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())[:60]


class Scored(Protocol):
    """One row of a leaderboard; that of `tracking.winners` is one."""

    @property
    def trial_id(self) -> str: ...  # noqa: D102  (fields, not methods)
    @property
    def architecture(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def validation_dice(self) -> float | None: ...  # noqa: D102
    @property
    def parameters(self) -> int | None: ...  # noqa: D102
    @property
    def seconds_per_case(self) -> float | None: ...  # noqa: D102
    @property
    def winner(self) -> bool: ...  # noqa: D102


def leaderboard_grid(rows: Sequence[Scored], limit: int | None = None) -> Grid:
    """Return the leaderboard, winners marked with a star; `limit` keeps the first rows."""
    shown = rows if limit is None else rows[:limit]
    title = "Leaderboard (validation Dice)" + (f", first {len(shown)} of {len(rows)}" if len(shown) < len(rows) else "")
    columns = ("winner", "trial", "architecture", "variant", "state", "validation Dice", "parameters", "s per case")
    texts = tuple(
        (
            "*" if row.winner else "",
            row.trial_id,
            row.architecture,
            row.variant,
            row.state,
            number(row.validation_dice),
            number(row.parameters, ","),
            number(row.seconds_per_case),
        )
        for row in shown
    )
    return Grid(title, columns, texts, left=5)


ANNOTATOR_FIGURES = {
    "annotators": "Dice with an annotator, mean of a case",
    "majority": "Dice with the majority",
    "staple": "Dice with the STAPLE consensus",
    "between_annotators": "Dice of two annotators",
    "energy_distance": "energy distance of the mask",
    "set_energy_distance": "energy distance of the members' masks",
    "ensemble": "calibration error of the probability",
    "mcm": "calibration error of the MCM",
}


def annotator_grid(tables: Sequence[AnnotatorTable]) -> Grid:
    """Return every structure's agreement with its annotators, and how well confidences say their share."""
    dash, rows = number(None), []
    for table in tables:
        for name, found in table.figures.items():
            _, _, annotator = name.partition(":")
            figure = ANNOTATOR_FIGURES.get(name) or f"Dice with {annotator}"
            rows.append(
                (table.structure, figure, *map(number, (found.mean, found.sd, found.low, found.high)), str(found.n))
            )
        for name, calibration in table.calibration.items():
            for kind, error in (("", calibration.expected_error), (", bins alike", calibration.mean_error)):
                rows.append((table.structure, ANNOTATOR_FIGURES[name] + kind, number(error), dash, dash, dash, dash))
    columns = ("structure", "figure", "mean", "sd", "low", "high", "n")
    return Grid("Against the annotators (low to high: 95 % interval)", columns, tuple(rows), left=2)
