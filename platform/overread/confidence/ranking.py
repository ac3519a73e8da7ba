"""The order in which a person should look at the cases.

Cases flagged as never safe and cases without the score come first, the highest foreground probability before lower
ones: where all readings are empty, that is the case with the most likely overlooked finding. The rest follow by rising
score.
"""

from __future__ import annotations

from collections.abc import Iterable

from overread.confidence.scores import never_safe
from overread.errors import unknown_name
from overread.records import CaseConfidence

DEFAULT_SCORE = "relation_confidence"
_COLUMNS = ("relation_confidence", "pairwise_dice", "predicted_dice", "dice_lower_bound")


def score_of(row: CaseConfidence, score: str = DEFAULT_SCORE) -> float | None:
    """Return a score of a row by the name of its column; a name that the row lacks raises `UserError`."""
    if score in _COLUMNS:
        value: float | None = getattr(row, score)
        return value
    if score in row.scores:
        return row.scores[score]
    raise unknown_name("score", score, [*_COLUMNS, *row.scores])


def ranking_score(row: CaseConfidence, score: str = DEFAULT_SCORE) -> float | None:
    """Return the score by which a case may be ranked: None for one that is never safe, whatever its readings say.

    A single reading agrees with nothing, so its relation scores are None; what it says of itself, as `c_12`, ranks.
    """
    value = score_of(row, score)
    return None if never_safe(row.flag) else value


def worst_first(rows: Iterable[CaseConfidence], score: str = DEFAULT_SCORE) -> list[CaseConfidence]:
    """Return the rows in review order; ties go by case id, so the order does not depend on that of the input."""

    def key(row: CaseConfidence) -> tuple[int, float, str]:
        value = ranking_score(row, score)
        return (0, -row.foreground, row.case) if value is None else (1, value, row.case)

    return sorted(rows, key=key)
