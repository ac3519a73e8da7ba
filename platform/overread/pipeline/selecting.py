"""Choosing members by what they add to the ensemble: validation cases read by every candidate, then greedy selection.

The candidates' probabilities lie in a scratch folder of the run, float16 in the native grid, while the selection reads
them one array at a time; it is deleted afterwards. `selection.json` keeps every round, the choice against the best
single member, the top k (both within the budget) and all, the contribution of each member and how alike the errors are.
Choices and contributions are of the soft vote, also where the winners fuse otherwise.

A search validates on one fold, so its candidates are selected on the cases of that fold. Out of fold, a candidate is
its configuration: it is trained once more for each other fold (`folding`), and every case is read by the training that
held it out. More cases decide then, at the price of those trainings; the members stay the networks of the search.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from overread.cluster.contribution import current_members
from overread.data.prepare import MapCases
from overread.ensemble.candidates import (
    Votes,
    compare_choices,
    cost_of,
    dice_per_case,
    read_alone,
    top_k,
)
from overread.ensemble.contribution import contributions, error_correlation
from overread.ensemble.greedy import GreedySettings, Selection, class_weights, select_greedily, select_per_class
from overread.ensemble.selection import LEAST, Candidate, Outcomes, all_candidates, shortlist
from overread.errors import UserError
from overread.jsonio import fingerprint
from overread.pipeline.candidate_readings import Candidates, ReadPredictions, lacking_disk, read_candidates
from overread.pipeline.folding import train_folds, with_unseen_folds
from overread.pipeline.importing import readings_of
from overread.pipeline.selection_report import SelectionReport, candidate_name, votes_of
from overread.pipeline.stages import Run, assemble, check_searched
from overread.records import ImportedMember, Prepared, Vote, Winners

CANDIDATES = 12
log = logging.getLogger(__name__)


def select(
    run: Run,
    map_cases: MapCases,
    *,
    most: int,
    cost: str = "ms",
    budget: float | None = None,
    per_class: bool = False,
    out_of_fold: bool = False,
    candidates: int = CANDIDATES,
    gpus: float = 0.0,
    imported: Sequence[ImportedMember] = (),
) -> SelectionReport:
    """Select at most `most` members of the best `candidates`, those that a search joined first, and the imported ones.

    Nothing is written: the report belongs to winners once these are frozen.

    Args:
        run: With a search.
        map_cases: Runs the readings.
        most: Members at the most, of all classes together.
        cost: `ms`: milliseconds of each variant, as measured in validation; they add up. `parameters`: of the networks
            that the package would hold: one for all variants that need the whole of a trial's network, and one for
            each pruned level, which is stored as a network of its own. Imported members cost nothing.
        budget: Most that all members together may cost per case.
        per_class: Select for each foreground class apart, and weight the members per class.
        out_of_fold: Train the candidates with every other fold held out too (once: in `folds/` of the run), and select
            on the cases of all folds, each read by the training that held it out. Else on the fold of the search.
            Candidates whose pretrained weights have seen the other folds are left out.
        candidates: Variants that are read.
        gpus: Of each reading and training.
        imported: Members of other tools.

    Raises:
        UserError: Winners that have read the locked split, no candidate, a budget that fits no network, or too little
            disk for the candidates' probabilities.

    """
    from overread.search.leaderboard import read_outcomes

    _check_open(run)
    outcomes: Outcomes = read_outcomes(run.folder.search)
    if out_of_fold:
        outcomes = with_unseen_folds(outcomes, run.prepared)
    first = current_members(run.folder.search)  # of a search by gain: a weak network that completes the others counts
    best = shortlist(outcomes, candidates, one_fold=not out_of_fold, first=first)
    found: Candidates = {candidate_name(c.choice): c for c in best} | {member.name: member for member in imported}
    costs = {name: _cost(name, c, cost) for name, c in found.items()}
    _check_budget(budget, [costs[candidate_name(c.choice)] for c in best])
    folds = tuple(range(len(run.prepared.splits.folds))) if out_of_fold else (best[0].outcome.config.fold,)
    cases = _cases(run, folds)
    if lacking := lacking_disk(run, cases, len(found)):
        raise UserError(f"{lacking}, or select by the rule")
    trained = train_folds(run, best, folds, gpus=gpus) if out_of_fold else {}
    with read_candidates(run, found, cases, map_cases, gpus, trained) as predictions:
        found = {name: found[name] for name in predictions.members}
        costs = {name: costs[name] for name in found}
        settings = GreedySettings(least=min(LEAST, most, len(found)), most=most, cost=costs, budget=budget)
        alone = read_alone(predictions)
        chosen = _choose(predictions, settings, run.prepared, per_class=per_class)
        choices: dict[str, Votes] = {
            "greedy per class" if per_class else "greedy": chosen.votes,
            f"top {most}": top_k(alone, most, costs, budget),
            "all": dict.fromkeys(found, 1.0),
        }
        return SelectionReport(
            selection=chosen.selection,
            per_class=chosen.per_class,
            class_weights=chosen.class_weights,
            folds=folds,
            comparison=compare_choices(predictions, choices, alone, costs, budget),
            contributions=contributions(predictions, chosen.votes, alone),
            errors=error_correlation(alone),
        )


def assemble_greedily(
    run: Run, map_cases: MapCases, *, most: int, gpus: float = 0.0
) -> tuple[Winners, SelectionReport]:
    """Select members on the fold of the search, freeze them and write the package and what each member brings."""
    found = select(run, map_cases, most=most, gpus=gpus)
    winners, _ = assemble(run, top=most, votes=votes_of(found))
    found.write(run.folder)
    return winners, found


def _check_open(run: Run) -> None:
    """Raise `UserError` before hours of training and reading, where the winners must stay as they are."""
    check_searched(run)
    if run.folder.was_looked_at:
        raise UserError(
            f"winners of {run.folder.root} must stay as frozen, since the locked split was read with them, but a new "
            "selection was asked for: search into another --out"
        )


def _check_budget(budget: float | None, networks: Sequence[Mapping[str, float]]) -> None:
    """Raise `UserError` for a budget below every network: imported members, which cost nothing, do not help then."""
    cheapest = min(sum(parts.values()) for parts in networks)
    if budget is not None and budget < cheapest:
        raise UserError(f"--budget must fit a network, but {budget:g} is below the cheapest ({cheapest:g}): give more")


@dataclass(frozen=True)
class _Chosen:
    """A selection, or those of all classes and what they are together."""

    selection: Selection
    per_class: dict[str, Selection]
    class_weights: dict[str, tuple[float, ...]]

    @property
    def votes(self) -> Votes:
        return self.class_weights or self.selection.votes


def _choose(predictions: ReadPredictions, settings: GreedySettings, prepared: Prepared, *, per_class: bool) -> _Chosen:
    if not per_class:
        return _Chosen(select_greedily(predictions, settings, predictions.root), {}, {})
    chosen = select_per_class(predictions, prepared.classes, settings, predictions.root)
    weights = class_weights(chosen, prepared.classes)
    together = Selection(
        votes={member: sum(own.votes.get(member, 0.0) for own in chosen.values()) for member in weights},
        dice=float(np.mean(dice_per_case(predictions, weights))),
        rounds=(),
        cost=cost_of(weights, settings.cost) if settings.cost is not None else None,
        ended="every class has its votes",
    )
    return _Chosen(together, {prepared.label_names[label]: own for label, own in chosen.items()}, weights)


def _cases(run: Run, folds: Sequence[int]) -> tuple[str, ...]:
    return tuple(case for fold in folds for case in run.prepared.splits.fold(fold).validation)


def describe(run: Run, winners: Winners, map_cases: MapCases, *, gpus: float = 0.0) -> SelectionReport | None:
    """Measure what each frozen member brings to the soft vote on the validation cases; write it as `selection.json`.

    On the cases that every imported member has read; None, with a warning, where there are none, where the members
    were validated on different folds (each trained on the others' cases) or on none, and on a full disk.
    """
    from overread.search.leaderboard import read_outcomes

    by_choice = {c.choice: c for c in all_candidates(read_outcomes(run.folder.search))}
    chosen = {candidate_name((m.trial_id, m.variant)): by_choice.get((m.trial_id, m.variant)) for m in winners.members}
    trained = {name: candidate for name, candidate in chosen.items() if candidate is not None}
    readings = readings_of(winners.imported, run.prepared)
    wanted = {member.name for member in winners.imported}
    validation = run.prepared.splits.fold(winners.folds[0]).validation if len(winners.folds) == 1 else ()
    cases = tuple(case for case in validation if wanted <= set(readings.get(case, {})))
    if not cases or len(trained) < len(winners.members):
        log.warning("contributions need members of one fold and validation cases that all have read: there are none")
        return None
    votes: dict[str, Vote] = {candidate_name((m.trial_id, m.variant)): m.vote for m in winners.members}
    votes |= {member.name: member.vote for member in winners.imported}
    found: Candidates = {**trained, **{member.name: member for member in winners.imported}}
    if lacking := lacking_disk(run, cases, len(found)):
        log.warning("contributions are not measured: %s", lacking)
        return None
    with read_candidates(run, found, cases, map_cases, gpus) as predictions:
        votes = {name: weight for name, weight in votes.items() if name in predictions.members}
        choices: dict[str, Votes] = {"all": votes}
        if wanted and set(votes) - wanted:
            choices["without imported"] = {name: weight for name, weight in votes.items() if name not in wanted}
        alone = read_alone(predictions)
        comparison = compare_choices(predictions, choices, alone)
        dice = next(row.dice.mean for row in comparison if row.name == "all")
        single = {name: own[0] if isinstance(own, tuple) else own for name, own in votes.items()}
        report = SelectionReport(
            selection=Selection(votes=single, dice=dice or 0.0, rounds=(), cost=None, ended="members were given"),
            class_weights={name: own for name, own in votes.items() if isinstance(own, tuple)},
            folds=winners.folds,
            comparison=comparison,
            contributions=contributions(predictions, votes, alone),
            errors=error_correlation(alone),
        )
    report.write(run.folder)
    return report


def describe_if_possible(
    run: Run, winners: Winners, map_cases: MapCases, *, gpus: float = 0.0
) -> SelectionReport | None:
    """Describe the members, or say why not and return None: a run must not end for want of a table."""
    why = "what each member brings could not be measured, the run goes on: %s"
    try:
        return describe(run, winners, map_cases, gpus=gpus)
    except UserError as error:
        log.warning(why, error)
    except Exception as error:
        log.warning(why, f"{type(error).__name__}: {error}", exc_info=True)
    return None


def _cost(name: str, candidate: Candidate | ImportedMember, unit: str) -> dict[str, float]:
    """Return what a candidate costs per case, by part (`candidates.Costs`): the parts of the package are shared."""
    if isinstance(candidate, ImportedMember):
        return {}
    if unit == "ms":
        return {name: 1000 * candidate.score.seconds_per_case}
    from overread.architectures.contract import count_parameters
    from overread.ensemble.package import stored_part

    outcome = candidate.outcome
    part = stored_part(outcome.config, candidate.score.variant)
    if part is None:
        return {outcome.trial_id: float(outcome.parameters)}
    return {f"{outcome.trial_id} {fingerprint(dict(part.options))}": float(count_parameters(part.segmenter))}
