"""The order in which a person should look at the cases.

Cases flagged as never safe come first, then other cases without the score, in both the highest foreground probability
before lower ones: where all readings are empty, that is the case with the most likely overlooked finding. The rest
follow by rising score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overread.confidence.scores import never_safe
from overread.errors import unknown_name
from overread.records import CaseConfidence

DEFAULT_SCORE = "relation_confidence"
Certainty = tuple[int, float]
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


def known_score(rows: Sequence[CaseConfidence], scores: Sequence[str]) -> str:
    """Return the first of `scores` that ranks any of the rows, else the first: a single reading agrees with nothing."""
    return next((score for score in scores if any(score_if_any(row, score) is not None for row in rows)), scores[0])


def score_if_any(row: CaseConfidence, score: str) -> float | None:
    """As `ranking_score`, but a row that lacks the score, as where the member that gives it failed, has None."""
    return ranking_score(row, score) if _has(row, score) else None


def certainty(score: float | None, foreground: float) -> Certainty:
    """Return the key that rises with how safe a case is: that of every order and curve of cases.

    >>> sorted([0.1, None, 0.9, None], key=lambda score: certainty(score, 0.5))
    [None, None, 0.1, 0.9]
    >>> certainty(None, foreground=0.8) < certainty(None, foreground=0.2) < certainty(0.0, foreground=1.0)
    True
    """
    return (0, -foreground) if score is None else (1, score)


def _has(row: CaseConfidence, score: str) -> bool:
    return score in _COLUMNS or score in row.scores


def review_levels(rows: Sequence[CaseConfidence], score: str = DEFAULT_SCORE) -> list[int]:
    """Return the place of each row in review order, 0 the first; rows that the order cannot tell apart share one."""
    keys = [(not never_safe(row.flag), *certainty(score_if_any(row, score), row.foreground)) for row in rows]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return [places[key] for key in keys]


def worst_first(rows: Iterable[CaseConfidence], score: str = DEFAULT_SCORE) -> list[CaseConfidence]:
    """Return the rows in review order; ties go by case id, so the order does not depend on that of the input.

    A score that all rows lack raises `UserError`.
    """
    rows = list(rows)
    if rows and not any(_has(row, score) for row in rows):
        score_of(rows[0], score)
    keys = [(level, row.case) for level, row in zip(review_levels(rows, score), rows, strict=True)]
    return [rows[at] for at in sorted(range(len(rows)), key=keys.__getitem__)]
