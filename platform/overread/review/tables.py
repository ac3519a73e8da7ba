"""Tables that are read in a terminal, pasted as Markdown or opened as CSV, and the leaderboard of a search."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from overread.review.words import number

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """A table of texts: `columns` by `rows`; columns from `left` on are figures and align right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"rows must have {len(self.columns)} texts, but got {wrong[0]}")

    def rich(self) -> Table:
        """Return the table for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index < self.left else "right")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row))  # Text: a name with [brackets] is not markup
        return table

    def csv(self) -> str:
        """Return the table as CSV, without its title."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        """Return the table as Markdown, without its title."""
        rule = ["---" if index < self.left else "---:" for index in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines) + "\n"


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
            "–" if row.parameters is None else f"{row.parameters:,}",  # noqa: RUF001
            number(row.seconds_per_case),
        )
        for row in shown
    )
    return Grid(title, columns, texts, left=5)
