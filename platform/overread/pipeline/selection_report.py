"""`selection.json` and `members.csv`: how members were selected, and what each brings to their soft vote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from overread.ensemble.candidates import ChoiceRow
from overread.ensemble.contribution import Contribution, ErrorCorrelation
from overread.ensemble.greedy import Selection
from overread.ensemble.selection import Choice, vote_words, with_vote
from overread.errors import UserError
from overread.jsonio import JsonRecord, write_bytes
from overread.metrics.summary import Summary
from overread.pipeline.folders import RunFolder
from overread.records import ImportedMember, Vote, Winners
from overread.review.tables import Grid
from overread.review.words import interval, number


@dataclass(frozen=True, kw_only=True)
class SelectionReport(JsonRecord):
    """`selection.json`. Candidates are named `trial:variant`, imported members by their names."""

    selection: Selection
    """Of a selection per class its sums: the votes of all classes, the Dice of their joint vote."""
    per_class: dict[str, Selection] = field(default_factory=dict)
    """By label name, of a selection per class."""
    class_weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By candidate, of a selection per class: `greedy.class_weights`."""
    folds: tuple[int, ...] = (0,)
    """Whose cases were read, each by trainings that held it out."""
    comparison: tuple[ChoiceRow, ...]
    """On the cases that the choice was made by: flattering to it. Soft votes, as the contributions are."""
    contributions: tuple[Contribution, ...]
    errors: ErrorCorrelation

    @property
    def votes(self) -> Mapping[str, Vote]:
        """The votes by candidate, or its weights per class."""
        return self.class_weights or self.selection.votes

    def write(self, folder: RunFolder) -> None:
        """Write `selection.json` and `members.csv` of a run."""
        self.save(folder.selection)
        write_bytes(folder.members, members_table(self).csv().encode())


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What one member brings to the ensemble, on the cases that it was selected by."""

    contribution: Summary
    """Paired: Dice of the soft vote minus that without the member."""
    error_correlation: float | None
    """Mean correlation (phi) of its errors with those of the other members, by voxel."""


def candidate_name(choice: Choice) -> str:
    """Return the name of a variant of a trial."""
    return ":".join(choice)


def votes_of(report: SelectionReport) -> dict[Choice, Vote]:
    """Return the votes of the trained members by (trial, variant)."""
    named = {name: name.rpartition(":") for name in report.votes if ":" in name}
    if not named:
        raise UserError(
            "an ensemble must have a trained member, but only imported ones were selected: give a larger --top or "
            "--budget, leave the --member out, or select by the rule"
        )
    return {(trial, variant): report.votes[name] for name, (trial, _, variant) in named.items()}


def imported_of(report: SelectionReport, imported: Sequence[ImportedMember]) -> tuple[ImportedMember, ...]:
    """Return the selected imported members, with the weight that their votes are of the most that a trained one has."""
    trained = votes_of(report).values()
    return tuple(with_vote(m, report.votes[m.name], trained) for m in imported if m.name in report.votes)


def brought(folder: RunFolder, winners: Winners) -> dict[str, Brought]:
    """Return what each winner brings, by its name; nothing where `selection.json` is of other members or votes."""
    if not folder.selection.is_file():
        return {}
    report = SelectionReport.load(folder.selection)
    names = {candidate_name((m.trial_id, m.variant)): m.name for m in winners.members}
    votes = {name: winners_vote(winners, own) for name, own in names.items()}
    votes |= {member.name: member.vote for member in winners.imported}
    if set(votes) != set(report.votes) or not _proportional(votes, report.votes):
        return {}
    alike = report.errors.among(list(votes))
    return {
        names.get(row.member, row.member): Brought(
            contribution=row.contribution, error_correlation=alike.with_others(row.member)
        )
        for row in report.contributions
    }


def winners_vote(winners: Winners, name: str) -> Vote:
    """Return the vote of a trained winner."""
    return next(member.vote for member in winners.members if member.name == name)


def _proportional(votes: Mapping[str, Vote], others: Mapping[str, Vote]) -> bool:
    """Return whether two choices give every class the same shares."""

    def shares(chosen: Mapping[str, Vote]) -> dict[str, tuple[float, ...]]:
        rows = {name: own if isinstance(own, tuple) else (own,) for name, own in chosen.items()}
        totals = [sum(values) for values in zip(*rows.values(), strict=True)]
        return {name: tuple(v / t for v, t in zip(own, totals, strict=True)) for name, own in rows.items()}

    if len({len(own) if isinstance(own, tuple) else 0 for own in (*votes.values(), *others.values())}) > 1:
        return False
    mine, theirs = shares(votes), shares(others)
    return all(abs(a - b) < 1e-4 for name in mine for a, b in zip(mine[name], theirs[name], strict=True))


def selection_grids(report: SelectionReport) -> list[Grid]:
    """Return the rounds, the comparison and the members as tables."""
    choices = [
        (c.name, str(len(c.votes)), number(c.dice.mean), interval(c.dice),
         "" if c.cost is None else f"{c.cost:,.0f}")
        for c in report.comparison
    ]  # fmt: skip
    where = "the validation cases" if len(report.folds) == 1 else f"the cases of {len(report.folds)} folds, out of fold"
    return [
        *_rounds(report),
        Grid(f"Soft votes on {where}", ("ensemble", "members", "Dice", "95 % interval", "cost"), tuple(choices)),
        _members(report),
    ]


def _rounds(report: SelectionReport) -> list[Grid]:
    selections = {f"Greedy selection for {label}": chosen for label, chosen in report.per_class.items()}
    return [
        Grid(
            f"{title}: {chosen.ended}",
            ("vote", "Dice", "gain", "error"),
            tuple((r.member, number(r.dice), number(r.gain), number(r.error)) for r in chosen.rounds),
        )
        for title, chosen in (selections or {"Greedy selection": report.selection}).items()
    ]


def _members(report: SelectionReport) -> Grid:
    alike = report.errors.among([row.member for row in report.contributions])
    rows = [
        (row.member, vote_words(row.votes), number(row.alone.mean), number(row.contribution.mean),
         interval(row.contribution), number(alike.with_others(row.member)))
        for row in report.contributions
    ]  # fmt: skip
    columns = ("member", "votes", "Dice alone", "contribution", "95 % interval", "error correlation")
    return Grid("Members", columns, tuple(rows))


def members_table(report: SelectionReport) -> Grid:
    """Return `members.csv`: the members with intervals, the mean correlation of errors, and that with each other.

    Correlations are by voxel (phi); what is not defined is empty.
    """

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.6g}"

    def texts(found: Summary) -> tuple[str, str, str]:
        return text(found.mean), text(found.low), text(found.high)

    names = [row.member for row in report.contributions]
    alike = report.errors.among(names)
    rows = tuple(
        (row.member, vote_words(row.votes), *texts(row.alone), *texts(row.contribution),
         text(alike.with_others(row.member)), *map(text, own))
        for row, own in zip(report.contributions, alike.by_voxel, strict=True)
    )  # fmt: skip
    figures = [f"{figure}{end}" for figure in ("dice_alone", "contribution") for end in ("", "_low", "_high")]
    pairs = [f"error_correlation_{name}" for name in names]
    return Grid("Members", ("member", "votes", *figures, "error_correlation", *pairs), rows)
