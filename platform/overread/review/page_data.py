"""What the script of the review page gets: one JSON object of columns, and one JSON object per embedded picture.

Names of cases, labels and members come from files, so they may hold anything: JSON goes into the page with `<`, `>`
and `&` as escapes, which no name can leave, and the script writes texts as text only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from overread.confidence.ranking import score_if_any, worst_first
from overread.confidence.review_plan import ReviewPlan, review_plan
from overread.confidence.scores import SCORES
from overread.records import CaseConfidence
from overread.review.views import CaseView, Sampled
from overread.review.words import flag_words, score_name

if TYPE_CHECKING:
    from overread.review.report import CaseRow

DIGITS = 4
Columns = dict[str, list[float | None]]
RANKING = ("relation_confidence", "pairwise_dice", "predicted_dice")


def to_script(data: Any) -> str:
    """Return JSON that can stand in a script element, whatever its texts are.

    >>> to_script({"name": "</script>&"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u0026"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def page_data(ranked: Sequence[CaseRow], score: str, failure_dice: float) -> dict[str, Any]:
    """Return the columns of the table, per class values and the review plans; cases in review order by `score`."""
    rows = [row.confidence for row in ranked]
    names = ranking_scores(ranked, score)
    further = list(dict.fromkeys(name for row in rows for name in row.scores))
    columns: Columns = {
        "relation_confidence": [row.relation_confidence for row in rows],
        "pairwise_dice": [row.pairwise_dice for row in rows],
        "predicted_dice": [row.predicted_dice for row in rows],
        "dice_lower_bound": [row.dice_lower_bound for row in rows],
        "dice": [row.dice for row in ranked],
        "foreground": [row.foreground for row in rows],
    }
    columns |= {name: [row.scores.get(name) for row in rows] for name in further}
    ids = [row.case for row in rows]
    return {
        # Marks of reviewed cases are kept under this key: those of other readings of the same cases are not theirs.
        "key": hashlib.sha256(json.dumps([ids, columns], sort_keys=True).encode()).hexdigest()[:16],
        "score": score,
        "scores": names,
        "orders": _orders(rows, [name for name in names if name != score]),
        "names": {name: score_name(name) for name in columns},
        "case": ids,
        "flags": [flag_words(row.flag) for row in rows],
        "readings": [row.n_readings for row in rows],
        "columns": {name: rounded(values) for name, values in columns.items() if any(v is not None for v in values)},
        "classes": _classes(ranked),
        "plans": {name: _plan(review_plan(rows, columns["dice"], name, failure_dice)) for name in names},
    }


def ranking_scores(ranked: Sequence[CaseRow], score: str) -> list[str]:
    """Return the scores that may order a review, `score` first: those that any case has and that rise with quality."""
    rows = [row.confidence for row in ranked]
    falling = {name for name in SCORES if not SCORES[name].rises_with_quality}
    further = [name for row in rows for name in row.scores if name not in falling]
    names = list(dict.fromkeys([*RANKING, *further]))
    having = [name for name in names if any(score_if_any(row, name) is not None for row in rows)]
    return list(dict.fromkeys([score, *having]))


def _orders(rows: Sequence[CaseConfidence], names: Sequence[str]) -> dict[str, list[int]]:
    """Return by score the cases in its review order, as places in the columns, whose values are rounded."""
    place = {row.case: at for at, row in enumerate(rows)}
    return {name: [place[row.case] for row in worst_first(rows, name)] for name in names}


def rounded(values: Sequence[float | None]) -> list[float | None]:
    """Return values with four decimals: what the page shows, and a third of the size."""
    return [None if value is None else round(value, DIGITS) for value in values]


def _plan(plan: ReviewPlan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    return plan.to_json() | {"rest_dice": rounded(plan.rest_dice), "caught": rounded(plan.caught)}


def _classes(ranked: Sequence[CaseRow]) -> dict[str, Columns]:
    """Return by label and column, over the cases; columns without any value are left out."""
    labels = dict.fromkeys(label for row in ranked for label in row.confidence.relation_confidence_per_class)
    found = {}
    for label in labels:
        columns: Columns = {
            name: [getattr(row.confidence, f"{name}_per_class").get(label) for row in ranked]
            for name in (*RANKING, "dice_lower_bound")
        }
        columns["dice"] = [row.dice_per_class.get(label) for row in ranked]
        found[label] = {name: rounded(v) for name, v in columns.items() if any(value is not None for value in v)}
    return found


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """How much picture data the page may embed, worst cases first."""

    volumes: int = 50
    """At most so many cases with their volume (or large picture); the others with their key slice."""
    megabytes: float = 40.0
    """At most so many million characters, at most half of them for volumes; what does not fit is left out."""


@dataclass
class Pictures:
    """Picture data of the cases in review order, made one at a time, and how many there are of each kind."""

    ranked: Sequence[CaseRow]
    limits: PictureLimits
    volumes: int = 0
    slices: int = 0
    left_out: int = 0
    characters: int = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield (place in review order, JSON)."""
        for place, row in enumerate(self.ranked):
            view = row.view() if row.view is not None else None
            if view is None:
                continue
            chosen = self._choose(view)
            if chosen is None:
                self.left_out += 1
                continue
            yield place, to_script(_picture(view, chosen))

    def _choose(self, view: CaseView) -> Sampled | None:
        most = self.limits.megabytes * 1e6
        if self.volumes < self.limits.volumes and self.characters + view.whole.characters <= most / 2:
            self.volumes += 1
            chosen = view.whole
        elif self.characters + view.key_slice.characters <= most:
            self.slices += 1
            chosen = view.key_slice
        else:
            return None
        self.characters += chosen.characters
        return chosen

    @property
    def told(self) -> str:
        """What is embedded, in a sentence."""
        if not self.volumes + self.slices + self.left_out:
            return "No pictures are embedded: the cases were read without any."
        kinds = f"{self.volumes} with the whole case, {self.slices} with its key slice"
        missing = f", {self.left_out} with none, to keep this page small" if self.left_out else ""
        return f"Pictures embedded, the worst cases first: {kinds}{missing} ({self.characters / 1e6:.1f} MB)."


def _picture(view: CaseView, chosen: Sampled) -> dict[str, Any]:
    told = {item.name: getattr(view, item.name) for item in fields(view) if item.name not in ("key_slice", "whole")}
    return told | {item.name: getattr(chosen, item.name) for item in fields(chosen)}
