"""The review page: one self-contained HTML file that shows the doubtful cases first.

Nothing is fetched, and the content security policy allows no script or style but the page's own, by their hashes. Its
parts: `report.html.j2` with the figures that need no script and the first cases as a table for those without one,
`page.css`, `page.js`, the data of all cases (`page_data`), and pictures (`views`) within `PictureLimits`. The script
keeps one page of the table in the document and decodes a picture when its case is opened, so that thousands of cases
open as fast as ten. Marks of reviewed cases stay in the browser (local storage) and are exported as CSV or JSON.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Self

from overread.confidence.conformal import MeasuredCoverage
from overread.confidence.coverage import Correlation, CoveragePoint
from overread.confidence.failure_detection import FAILURE_DICE
from overread.confidence.ranking import DEFAULT_SCORE, ranking_score, worst_first
from overread.jsonio import write_with
from overread.metrics.summary import ForegroundSplit, Summary
from overread.records import CaseConfidence, ImportedMember, Member
from overread.review import curves
from overread.review.page_data import PictureLimits, Pictures, page_data, to_script
from overread.review.views import CaseView
from overread.review.words import count, flag_words, interval, number, percent, score_name

TEMPLATE = "report.html.j2"
WITHOUT_SCRIPT = 50
"""So many of the worst cases are in the page's own table, for those who run no script."""


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """One member of the ensemble, with its Dice on the validation fold and on the locked cases (None: not measured)."""

    name: str
    architecture: str
    variant: str
    validation_dice: float | None
    locked_dice: float | None = None
    weight: float = 1.0
    class_weights: tuple[float, ...] = ()
    """By class id, where members are weighted per class."""
    contribution: Summary | None = None
    """To the Dice of the ensemble, on the cases that members were selected by."""
    error_correlation: float | None = None
    """Mean correlation of its errors with those of the other members, on the same cases."""

    @property
    def votes(self) -> str:
        """The weight, or the weights of the classes, the background first."""
        return " / ".join(f"{value:.3g}" for value in self.class_weights or (self.weight,))

    @classmethod
    def of(cls, member: Member | ImportedMember, locked_dice: float | None = None) -> Self:
        """Return the row of a member of a package."""
        return cls(
            name=member.name,
            architecture=member.architecture,
            variant=member.variant,
            validation_dice=member.own_validation_dice,
            locked_dice=locked_dice,
            weight=member.weight,
            class_weights=member.class_weights,
        )


@dataclass(frozen=True, kw_only=True)
class EnsembleSummary:
    """How good the ensemble is on cases with known truth."""

    dice: Summary
    """Of the class-mean Dice of the cases."""
    per_class: Mapping[str, Summary]
    """By label name, over the cases where the class is in truth or prediction."""
    foreground: ForegroundSplit | None = None
    """Cases with and without foreground apart; shown if there are normal cases."""


@dataclass(frozen=True, kw_only=True)
class BoundRow:
    """Predicted Dice and lower bound of the class mean or of a class. None: not defined, or not measured."""

    target: str
    error: float | None
    """Mean absolute error of the predicted Dice, on validation groups left out."""
    error_of_mean: float | None
    """That of predicting the mean Dice."""
    wanted: float
    """Coverage."""
    calibration_groups: int
    width: float | None
    """The bound is the predicted Dice minus this."""
    measured: MeasuredCoverage | None = None
    """On the locked cases."""
    resplit: float | None = None
    """Mean coverage over divisions of calibration and locked groups."""


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One case of the list."""

    confidence: CaseConfidence
    dice: float | None = None
    """True class-mean Dice, where known."""
    dice_per_class: Mapping[str, float | None] = field(default_factory=dict)
    view: Callable[[], CaseView | None] | None = None
    """Gives its pictures: called once, when the page is written."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. Empty or None parts are left out: new cases have no Dice, correlation or coverage."""

    title: str
    dataset: str
    cases: Sequence[CaseRow]
    """In any order: the page shows them worst first."""
    members: Sequence[MemberRow] = ()
    ensemble: EnsembleSummary | None = None
    correlations: Mapping[str, Correlation] = field(default_factory=dict)
    """By score name."""
    coverage: Mapping[str, Sequence[CoveragePoint]] = field(default_factory=dict)
    """By score name."""
    bounds: Sequence[BoundRow] = ()
    bounds_note: str = ""
    """Said below their table."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings and versions, as text."""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    """Shown before all else, such as a shift of the scores."""
    score: str = DEFAULT_SCORE
    """Ranks the cases."""
    failure_dice: float = FAILURE_DICE
    """A case of lower Dice is a failure, for what a review catches."""
    limits: PictureLimits = field(default_factory=PictureLimits)

    def ranked(self) -> list[CaseRow]:
        """Return the cases, those to look at first at the top."""
        by_case = {row.confidence.case: row for row in self.cases}
        if len(by_case) != len(self.cases):
            raise ValueError("cases of a report must have different ids, but some are the same")
        return [by_case[row.case] for row in worst_first((row.confidence for row in self.cases), self.score)]


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all; pictures are made on the way, one in memory at a time."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        number=number, interval=interval, count=count, percent=percent, score=score_name, flags=flag_words
    )
    environment.filters.update(rank_value=lambda row: ranking_score(row, data.score))
    template = environment.from_string(_part(TEMPLATE))
    style, script = _part("page.css"), _part("page.js")
    ranked = data.ranked()
    known = [(r.confidence.case, ranking_score(r.confidence, data.score), r.dice) for r in ranked]
    page = template.stream(
        data=data,
        style=style,
        script=script,
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
        content=to_script(page_data(ranked, data.score, data.failure_dice)),
        pictures=Pictures(ranked, data.limits),
        first=ranked[:WITHOUT_SCRIPT],
        total=len(ranked),
        flagged=sum(bool(row.confidence.flag) for row in ranked),
        has_dice=any(row.dice is not None for row in ranked),
        has_predicted=any(row.confidence.predicted_dice is not None for row in ranked),
        coverage_svg=curves.coverage_svg({score_name(k): v for k, v in data.coverage.items()}),
        scatter_svg=curves.scatter_svg([(n, c, d) for n, c, d in known if c is not None and d is not None]),
    )
    write_with(path, lambda temporary: page.dump(str(temporary), encoding="utf-8"))


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """Return the source expression of an inline script or style for the content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
