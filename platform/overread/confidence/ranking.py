"""The order in which a person should look at the cases.

Flagged cases and cases without the score come first, the highest foreground probability before lower ones: where all
readings are empty, that is the case with the most likely overlooked finding. The others follow by rising score.
"""

from __future__ import annotations

from collections.abc import Iterable

from overread.errors import unknown_name
from overread.records import CaseConfidence

DEFAULT_SCORE = "relation_confidence"
_COLUMNS = ("relation_confidence", "pairwise_dice")


def score_of(row: CaseConfidence, score: str = DEFAULT_SCORE) -> float | None:
    """Return a score of a row by the name of its column; a name that the row lacks raises `UserError`."""
    if score in _COLUMNS:
        value: float | None = getattr(row, score)
        return value
    if score in row.scores:
        return row.scores[score]
    raise unknown_name("score", score, [*_COLUMNS, *row.scores])


def ranking_score(row: CaseConfidence, score: str = DEFAULT_SCORE) -> float | None:
    """Return the score by which a case may be ranked: None for a flagged case, whatever its readings agree on."""
    return None if row.flag else score_of(row, score)


def worst_first(rows: Iterable[CaseConfidence], score: str = DEFAULT_SCORE) -> list[CaseConfidence]:
    """Return the rows in review order; ties go by case id, so the order does not depend on that of the input."""

    def key(row: CaseConfidence) -> tuple[int, float, str]:
        value = ranking_score(row, score)
        return (0, -row.foreground, row.case) if value is None else (1, value, row.case)

    return sorted(rows, key=key)
