"""The review page: one self-contained HTML file that shows the doubtful cases first.

No address is fetched, no script is needed to read it, and it prints. Pictures are embedded as they are written, for the
worst cases first: `ReportData.pictures` of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Self

from overread.confidence.coverage import Correlation, CoveragePoint
from overread.confidence.ranking import DEFAULT_SCORE, ranking_score, worst_first
from overread.data import overlay
from overread.jsonio import write_with
from overread.metrics.summary import ForegroundSplit, Summary
from overread.records import CaseConfidence, ImportedMember, Member
from overread.review import curves

TEMPLATE = "report.html.j2"
SCORE_NAMES = {"relation_confidence": "relation confidence", "pairwise_dice": "pairwise Dice"}
FLAGS = {"all_empty": "all readings are empty", "one_reading": "only one reading", "member_failed": "member failed"}
Panel = bytes | Callable[[], bytes]
"""A PNG, or what makes it: called once, when the page is written."""


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """One member of the ensemble, with its Dice on the validation fold and on the locked cases (None: not measured)."""

    name: str
    architecture: str
    variant: str
    validation_dice: float | None
    locked_dice: float | None = None
    weight: float = 1.0

    @classmethod
    def of(cls, member: Member | ImportedMember, locked_dice: float | None = None) -> Self:
        """Return the row of a member of a package."""
        return cls(
            name=member.name,
            architecture=member.architecture,
            variant=member.variant,
            validation_dice=member.validation_dice,
            locked_dice=locked_dice,
            weight=member.weight,
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
class CaseRow:
    """One case of the list."""

    confidence: CaseConfidence
    dice: float | None = None
    """True class-mean Dice, where known."""
    dice_per_class: Mapping[str, float | None] = field(default_factory=dict)
    panel: Panel | None = None
    caption: str = ""
    """What the picture shows, such as the slice; also its text for those who cannot see it."""


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
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings and versions, as text."""
    notes: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = field(default_factory=lambda: role_legend())
    """(label, CSS colour) of the contours in the pictures; shown if there are pictures."""
    score: str = DEFAULT_SCORE
    """Ranks the cases."""
    pictures: int = 100
    """At most so many cases, the worst, have their picture: it keeps the page a few MB."""

    def ranked(self) -> list[CaseRow]:
        """Return the cases, those to look at first at the top."""
        by_case = {row.confidence.case: row for row in self.cases}
        if len(by_case) != len(self.cases):
            raise ValueError("cases of a report must have different ids, but some are the same")
        return [by_case[row.case] for row in worst_first((row.confidence for row in self.cases), self.score)]


def role_legend() -> tuple[tuple[str, str], ...]:
    """Return the colours that `data.overlay` gives to prediction, truth, Possible and Consensus."""
    return tuple((name.capitalize(), f"rgb{colour}") for name, colour in overlay.ROLES.items())


class CaseView:
    """A case as the template sees it."""

    def __init__(self, rank: int, row: CaseRow, data: ReportData) -> None:
        self.rank, self.row, self.confidence = rank, row, row.confidence
        self.value = ranking_score(row.confidence, data.score)
        self.flags = flag_words(row.confidence.flag)
        self._embedded = rank <= data.pictures

    @cached_property
    def picture(self) -> str | None:
        """The panel as a data address; None without one."""
        panel = self.row.panel if self._embedded else None
        if panel is None:
            return None
        content = panel() if callable(panel) else panel
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"

    @property
    def classes(self) -> list[tuple[str, float | None, float | None, float | None]]:
        """Per label: relation confidence, pairwise Dice, true Dice."""
        c = self.confidence
        return [
            (label, value, c.pairwise_dice_per_class.get(label), self.row.dice_per_class.get(label))
            for label, value in c.relation_confidence_per_class.items()
        ]


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, whole or not at all; the panels of the worst cases are made on the way."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, interval=interval, count=count, score=score_name)
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    ranked = data.ranked()
    known = [(r.confidence.case, ranking_score(r.confidence, data.score), r.dice) for r in ranked]
    page = template.stream(
        data=data,
        views=(CaseView(rank, row, data) for rank, row in enumerate(ranked, 1)),  # one picture in memory at a time
        total=len(ranked),
        flagged=sum(bool(row.confidence.flag) for row in ranked),
        has_dice=any(row.dice is not None for row in ranked),
        has_pictures=any(row.panel is not None for row in ranked[: data.pictures]),
        undepicted=sum(row.panel is not None for row in ranked[data.pictures :]),
        coverage_svg=curves.coverage_svg({score_name(k): v for k, v in data.coverage.items()}),
        scatter_svg=curves.scatter_svg([(n, c, d) for n, c, d in known if c is not None and d is not None]),
    )
    write_with(path, lambda temporary: page.dump(str(temporary), encoding="utf-8"))


def number(value: float | None) -> str:
    """Return three decimals, or a dash for what is not defined."""
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001  (a dash, as print has it)


def interval(summary: Summary) -> str:
    """Return the 95 % interval of a mean, or a dash for fewer than two cases."""
    return number(None) if summary.low is None else f"{number(summary.low)} to {number(summary.high)}"


def count(value: int, word: str) -> str:
    """Return a number with its noun.

    >>> count(1, "case"), count(2, "case")
    ('1 case', '2 cases')
    """
    return f"{value} {word}" if value == 1 else f"{value} {word}s"


def score_name(score: str) -> str:
    """Return the name of a score as people read it."""
    return SCORE_NAMES.get(score, score.replace("_", " "))


def flag_words(flag: str) -> list[str]:
    """Return a flag in words.

    >>> flag_words("member_failed:unet-1;all_empty")
    ['member failed: unet-1', 'all readings are empty']
    """
    found = []
    for part in filter(None, flag.split(";")):
        kind, _, detail = part.partition(":")
        found.append(FLAGS.get(kind, kind.replace("_", " ")) + (f": {detail}" if detail else ""))
    return found
