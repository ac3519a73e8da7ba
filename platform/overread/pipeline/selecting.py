"""Choosing members by what they add to the ensemble: validation cases read by every candidate, then greedy selection.

The candidates' probabilities lie in a scratch folder of the run, float16 in the native grid, while the selection reads
them one array at a time; it is deleted afterwards. `selection.json` keeps every round, the choice against the best
single member, the top k and all, the contribution of each member and how alike the errors are.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from overread.data.prepare import MapCases
from overread.data.store import open_case
from overread.ensemble.candidates import ChoiceRow, StoredPredictions, compare_choices, top_k
from overread.ensemble.contribution import Contribution, ErrorCorrelation, contributions, error_correlation
from overread.ensemble.greedy import GreedySettings, Selection, select_greedily
from overread.ensemble.selection import LEAST, Candidate, Choice, shortlist
from overread.errors import UserError
from overread.jsonio import JsonRecord, write_with
from overread.metrics.overlap import Ids
from overread.pipeline.stages import Run
from overread.records import Prepared
from overread.review.report import number
from overread.review.tables import Grid

CANDIDATES = 12
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

    candidate: Candidate
    prepared: Prepared
    cases: tuple[str, ...]
    out: Path
    gpu: bool


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
) -> SelectionReport:
    """Select at most `most` members of the best `candidates` and write `selection.json`.

    `budget` is the most that all members together may cost per case, in milliseconds (measured in validation) or
    parameters. Too little disk for the candidates' probabilities raises `UserError`.
    """
    from overread.cluster.tasks import on_gpus
    from overread.search.leaderboard import read_outcomes

    found = {_name(c.choice): c for c in shortlist(read_outcomes(run.folder.search), candidates)}
    fold = next(iter(found.values())).outcome.config.fold
    cases = run.prepared.splits.fold(fold).validation
    _check_disk(run, cases, len(found))
    with tempfile.TemporaryDirectory(dir=run.folder.root, prefix=".candidates-") as scratch:
        tasks = [CandidateTask(c, run.prepared, cases, Path(scratch) / name, gpus > 0) for name, c in found.items()]
        reasons = on_gpus(map_cases, gpus)(read_candidate, tasks, "Reading candidates")
        found = {name: c for (name, c), reason in zip(found.items(), reasons, strict=True) if not reason}
        groups = tuple(run.prepared.case(case).group for case in cases)
        predictions = _Stored(Path(scratch), tuple(found), cases, groups, run.prepared)
        costs = {name: _cost(c, cost) for name, c in found.items()}
        settings = GreedySettings(least=min(LEAST, most, len(found)), most=most, cost=costs, budget=budget)
        selection = select_greedily(predictions, settings, Path(scratch))
        choices = {"greedy": selection.votes, f"top {most}": top_k(predictions, most)}
        report = SelectionReport(
            selection=selection,
            comparison=compare_choices(predictions, choices | {"all": dict.fromkeys(found, 1.0)}, costs),
            contributions=contributions(predictions, selection.votes),
            errors=error_correlation(predictions),
        )
    report.save(run.folder.selection)
    return report


def read_candidate(task: CandidateTask) -> str:
    """Write the probabilities of every case as one candidate reads it; return why it could not, or nothing."""
    try:
        _write(task)
    except Exception as error:  # whatever breaks one candidate must not end the selection
        reason = f"{type(error).__name__}: {error}"
        log.warning("candidate %s is left out: %s", _name(task.candidate.choice), reason)
        return reason
    return ""


def _write(task: CandidateTask) -> None:
    import torch

    from overread.training.evaluate import predict_probabilities
    from overread.training.inference import load_segmenter

    device = torch.device("cuda" if task.gpu and torch.cuda.is_available() else "cpu")
    config = task.candidate.outcome.config
    segmenter = load_segmenter(config, task.candidate.weights, device)
    variant = segmenter.variant(task.candidate.score.variant)
    for case in task.cases:
        found = predict_probabilities(segmenter, task.prepared, case, config, variant, device).astype(np.float16)
        if not np.isfinite(found).all():
            raise ArithmeticError("its probabilities are not finite")
        write_with(task.out / f"{case}.npy", lambda path, array=found: np.save(path, array))  # type: ignore[misc]


def votes_of(report: SelectionReport) -> dict[Choice, float]:
    """Return the votes by (trial, variant)."""
    named = {name: name.rpartition(":") for name in report.selection.votes}
    return {(trial, variant): report.selection.votes[name] for name, (trial, _, variant) in named.items()}


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


def _cost(candidate: Candidate, unit: str) -> float:
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
