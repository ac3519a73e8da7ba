"""Choosing members by what they add to the ensemble: validation cases read by every candidate, then greedy selection.

The candidates' probabilities lie in a scratch folder of the run, float16 in the native grid, while the selection reads
them one array at a time; it is deleted afterwards. `selection.json` keeps every round, the choice against the best
single member, the top k and all, the contribution of each member and how alike the errors are.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from overread.data.layouts import read_dataset
from overread.data.prepare import MapCases
from overread.data.readings import find_readings, grid_of, read_reading
from overread.data.store import open_case
from overread.ensemble.candidates import ChoiceRow, StoredPredictions, compare_choices, top_k
from overread.ensemble.contribution import Contribution, ErrorCorrelation, contributions, error_correlation
from overread.ensemble.fusion import Probabilities
from overread.ensemble.greedy import GreedySettings, Selection, select_greedily
from overread.ensemble.selection import LEAST, Candidate, Choice, shortlist
from overread.errors import UserError
from overread.jsonio import JsonRecord, write_with
from overread.metrics.overlap import Ids
from overread.pipeline.importing import readings_of
from overread.pipeline.stages import Run, image_files
from overread.records import ImportedMember, Prepared, Winners
from overread.review.tables import Grid
from overread.review.words import number

CANDIDATES = 12
Candidates = dict[str, Candidate | ImportedMember]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelectionReport(JsonRecord):
    """`selection.json`. Candidates are named `trial:variant`."""

    selection: Selection
    comparison: tuple[ChoiceRow, ...]
    """On the cases that the choice was made by: flattering to it."""
    contributions: tuple[Contribution, ...]
    errors: ErrorCorrelation


@dataclass(frozen=True)
class CandidateTask:
    """One candidate to read all validation cases."""

    candidate: Candidate | ImportedMember
    prepared: Prepared
    cases: tuple[str, ...]
    out: Path
    gpu: bool
    images: Mapping[str, str]
    """First image file by case: the grid that imported readings are brought to."""


@dataclass(frozen=True)
class _Stored(StoredPredictions):
    """The candidates' files, with the truths of the prepared data set."""

    prepared: Prepared

    def truth(self, case: str) -> Ids:
        return open_case(self.prepared, case).truth


def select(
    run: Run,
    map_cases: MapCases,
    *,
    most: int,
    cost: str = "ms",
    budget: float | None = None,
    candidates: int = CANDIDATES,
    gpus: float = 0.0,
    imported: Sequence[ImportedMember] = (),
) -> SelectionReport:
    """Select at most `most` members of the best `candidates` and the imported ones; write `selection.json`.

    `budget` is the most that all members together may cost per case, in milliseconds (measured in validation) or
    parameters; imported members cost nothing. Too little disk for the candidates' probabilities raises `UserError`.
    """
    from overread.search.leaderboard import read_outcomes

    best = shortlist(read_outcomes(run.folder.search), candidates)
    found: Candidates = {_name(c.choice): c for c in best} | {member.name: member for member in imported}
    cases = run.prepared.splits.fold(best[0].outcome.config.fold).validation
    with _read(run, found, cases, map_cases, gpus) as predictions:
        scratch = predictions.root
        found = {name: found[name] for name in predictions.members}
        costs = {name: _cost(c, cost) for name, c in found.items()}
        settings = GreedySettings(least=min(LEAST, most, len(found)), most=most, cost=costs, budget=budget)
        selection = select_greedily(predictions, settings, scratch)
        choices = {"greedy": selection.votes, f"top {most}": top_k(predictions, most)}
        report = SelectionReport(
            selection=selection,
            comparison=compare_choices(predictions, choices | {"all": dict.fromkeys(found, 1.0)}, costs),
            contributions=contributions(predictions, selection.votes),
            errors=error_correlation(predictions),
        )
    report.save(run.folder.selection)
    return report


def describe(run: Run, winners: Winners, map_cases: MapCases, *, gpus: float = 0.0) -> SelectionReport | None:
    """Measure what each frozen member brings on the validation cases, and write it as `selection.json`.

    On the cases that every imported member has read; None, with a warning, where there are none, or where the members
    were validated on different folds (each trained on the others' cases) or on none.
    """
    from overread.search.leaderboard import read_outcomes

    outcomes = read_outcomes(run.folder.search)
    limit = sum(len(outcome.variants) for outcome, _ in outcomes.values())
    by_choice = {c.choice: c for c in shortlist(outcomes, limit)} if winners.members else {}
    chosen = {_name((m.trial_id, m.variant)): by_choice.get((m.trial_id, m.variant)) for m in winners.members}
    trained = {name: candidate for name, candidate in chosen.items() if candidate is not None}
    readings = readings_of(winners.imported, run.prepared)
    wanted = {member.name for member in winners.imported}
    validation = run.prepared.splits.fold(winners.folds[0]).validation if len(winners.folds) == 1 else ()
    cases = tuple(case for case in validation if wanted <= set(readings.get(case, {})))
    if not cases or len(trained) < len(winners.members):
        log.warning("contributions need members of one fold and validation cases that all have read: there are none")
        return None
    votes = {_name((m.trial_id, m.variant)): m.weight for m in winners.members}
    votes |= {member.name: member.weight for member in winners.imported}
    found: Candidates = {**trained, **{member.name: member for member in winners.imported}}
    with _read(run, found, cases, map_cases, gpus) as predictions:
        votes = {name: weight for name, weight in votes.items() if name in predictions.members}
        choices = {"all": votes}
        if wanted and set(votes) - wanted:
            choices["without imported"] = {name: weight for name, weight in votes.items() if name not in wanted}
        comparison = compare_choices(predictions, choices)
        dice = next(row.dice.mean for row in comparison if row.name == "all")
        report = SelectionReport(
            selection=Selection(votes=votes, dice=dice or 0.0, rounds=(), cost=None, ended="members were given"),
            comparison=comparison,
            contributions=contributions(predictions, votes),
            errors=error_correlation(predictions),
        )
    report.save(run.folder.selection)
    return report


@contextmanager
def _read(run: Run, found: Candidates, cases: tuple[str, ...], map_cases: MapCases, gpus: float) -> Iterator[_Stored]:
    """Let every candidate read the cases into a scratch folder; those that fail are left out."""
    from overread.cluster.tasks import on_gpus

    _check_disk(run, cases, len(found))
    files = image_files(read_dataset(Path(run.record.data))) if _any_imported(found) else {}
    images = {case: files[case][0] for case in cases if case in files}
    with tempfile.TemporaryDirectory(dir=run.folder.root, prefix=".candidates-") as scratch:
        tasks = [
            CandidateTask(c, run.prepared, cases, Path(scratch) / name, gpus > 0, images) for name, c in found.items()
        ]
        reasons = on_gpus(map_cases, gpus)(read_candidate, tasks, "Reading candidates")
        members = tuple(name for name, reason in zip(found, reasons, strict=True) if not reason)
        groups = tuple(run.prepared.case(case).group for case in cases)
        yield _Stored(Path(scratch), members, cases, groups, run.prepared)


def read_candidate(task: CandidateTask) -> str:
    """Write the probabilities of every case as one candidate reads it; return why it could not, or nothing."""
    try:
        _write(task)
    except Exception as error:  # whatever breaks one candidate must not end the selection
        reason = f"{type(error).__name__}: {error}"
        log.warning("candidate %s is left out: %s", task.out.name, reason)
        return reason
    return ""


def _write(task: CandidateTask) -> None:
    readings = _imported(task) if isinstance(task.candidate, ImportedMember) else _predicted(task, task.candidate)
    for case, found in readings:
        half = found.astype(np.float16)
        if not np.isfinite(half).all():
            raise ArithmeticError("its probabilities are not finite")
        write_with(task.out / f"{case}.npy", lambda path, array=half: np.save(path, array))  # type: ignore[misc]


def _imported(task: CandidateTask) -> Iterator[tuple[str, Probabilities]]:
    member, prepared = task.candidate, task.prepared
    assert isinstance(member, ImportedMember)  # noqa: S101  (_write)
    readings = find_readings(Path(member.folder), task.cases, prepared.label_names)
    for case in task.cases:
        if case not in readings:
            raise UserError(f"it must have read every validation case, but {case} is missing")
        grid = grid_of(Path(task.images[case]))
        yield case, read_reading(readings[case], grid, prepared.label_names, prepared.label_values)


def _predicted(task: CandidateTask, candidate: Candidate) -> Iterator[tuple[str, Probabilities]]:
    import torch

    from overread.training.evaluate import predict_probabilities
    from overread.training.inference import load_segmenter

    device = torch.device("cuda" if task.gpu and torch.cuda.is_available() else "cpu")
    config = candidate.outcome.config
    segmenter = load_segmenter(config, candidate.weights, device)
    variant = segmenter.variant(candidate.score.variant)
    for case in task.cases:
        yield case, predict_probabilities(segmenter, task.prepared, case, config, variant, device)


def votes_of(report: SelectionReport) -> dict[Choice, float]:
    """Return the votes of the trained members by (trial, variant)."""
    named = {name: name.rpartition(":") for name in report.selection.votes if ":" in name}
    if not named:
        raise UserError("an ensemble must have a trained member, but only imported ones were selected: search longer")
    return {(trial, variant): report.selection.votes[name] for name, (trial, _, variant) in named.items()}


def imported_of(report: SelectionReport, imported: Sequence[ImportedMember]) -> tuple[ImportedMember, ...]:
    """Return the selected imported members, with the weight that their votes are of the most that a trained one has."""
    highest, votes = max(votes_of(report).values()), report.selection.votes
    return tuple(replace(member, weight=votes[member.name] / highest) for member in imported if member.name in votes)


def selection_grids(report: SelectionReport) -> list[Grid]:
    """Return the rounds, the comparison and the members as tables."""
    rounds = [(r.member, number(r.dice), number(r.gain), number(r.error)) for r in report.selection.rounds]
    choices = [
        (c.name, str(len(c.votes)), number(c.dice.mean), f"{number(c.dice.low)} to {number(c.dice.high)}",
         "" if c.cost is None else f"{c.cost:,.0f}")
        for c in report.comparison
    ]  # fmt: skip
    members = [
        (c.member, f"{c.votes:g}", number(c.alone.mean), number(c.contribution.mean)) for c in report.contributions
    ]
    return [
        Grid(f"Greedy selection: {report.selection.ended}", ("vote", "Dice", "gain", "error"), tuple(rounds)),
        Grid("On the validation cases", ("ensemble", "members", "Dice", "95 % interval", "cost"), tuple(choices)),
        Grid("Members", ("member", "votes", "Dice alone", "contribution"), tuple(members)),
    ]


def _name(choice: Choice) -> str:
    return ":".join(choice)


def _any_imported(found: Candidates) -> bool:
    return any(isinstance(candidate, ImportedMember) for candidate in found.values())


def _cost(candidate: Candidate | ImportedMember, unit: str) -> float:
    if isinstance(candidate, ImportedMember):
        return 0.0
    return 1000 * candidate.score.seconds_per_case if unit == "ms" else float(candidate.outcome.parameters)


def _check_disk(run: Run, cases: Sequence[str], candidates: int) -> None:
    voxels = sum(prod(run.prepared.case(case).native_shape) for case in cases)
    needed = 2 * run.prepared.classes * voxels * candidates + 4 * run.prepared.classes * voxels
    free = shutil.disk_usage(run.folder.root).free
    if needed > 0.9 * free:
        raise UserError(
            f"greedy selection must write {needed / 2**30:.1f} GiB into {run.folder.root}, "
            f"but {free / 2**30:.1f} GiB are free: make room, or select by the rule"
        )
