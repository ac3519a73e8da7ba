"""The candidates of a selection trained with the other folds held out, so that every case is read out of fold.

A search trains all its networks with one fold held out. The configuration of a candidate is trained once more for each
other fold, with its own seed, on its own schedule and for as many passes as its kept weights had: where these are from
the midst of the schedule, so is the learning rate at which the twin ends. The last weights are kept, so that nothing of
these trainings is chosen on the cases they read. On the fold of the search the candidate's own weights read, whose
epoch may have been chosen there. Trainings stay in `folds/` of the run: the same call again trains what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from overread.ensemble.selection import Candidate, Outcomes
from overread.errors import UserError
from overread.pipeline.retraining import jobs_for, kept_epoch, retrained_config, train_jobs
from overread.pipeline.stages import Run
from overread.records import Prepared, TrialConfig, TrialOutcome

FoldTrainings = Mapping[str, Mapping[int, tuple[TrialConfig, Path]]]
"""By trial id and fold: config and weights of the training that held the fold out."""
log = logging.getLogger(__name__)


def train_folds(
    run: Run, candidates: Sequence[Candidate], folds: Sequence[int], *, gpus: float = 0.0
) -> dict[str, dict[int, tuple[TrialConfig, Path]]]:
    """Train the trial of every candidate for each fold but its own. Must run inside a Ray session.

    A training that fails is left out, with a warning: its candidate cannot read all cases then.
    """
    outcomes = {candidate.outcome.trial_id: candidate.outcome for candidate in candidates}
    wanted = {
        (trial, fold): twin_config(outcome, run.prepared, fold)
        for trial, outcome in outcomes.items()
        for fold in folds
        if fold != outcome.config.fold
    }
    root = run.folder.folds
    named = {f"{trial}-fold{fold}": config for (trial, fold), config in wanted.items()}
    log.info("out of fold: %d trainings of %d candidates", len(named), len(outcomes))
    found: dict[str, dict[int, tuple[TrialConfig, Path]]] = {trial: {} for trial in outcomes}
    if not named:
        return found
    ended, failed = train_jobs(jobs_for(named, root, gpus_per_worker=gpus), run.prepared, root / "tune")
    for name, reason in failed.items():
        log.warning("training %s failed: %s", name, reason)
    for trial, fold in wanted:
        if (outcome := ended.get(f"{trial}-fold{fold}")) is not None:
            found[trial][fold] = (outcome.config, root / outcome.trial_id / str(outcome.weights))
    return found


def with_unseen_folds(outcomes: Outcomes, prepared: Prepared) -> Outcomes:
    """Return the trials that can be trained for every fold; the others are left out in one line.

    A teacher of attention maps that was pretrained for the fold of the search has seen the cases of all other folds.
    None left raises `UserError`.
    """
    seen = [name for name, (outcome, _) in outcomes.items() if _has_seen(outcome, prepared)]
    if not seen:
        return outcomes
    if len(seen) == len(outcomes):
        raise UserError(
            "--out-of-fold must have trials that can be trained for every fold, but the pretrained weights of all have "
            "seen cases of other folds: leave it out"
        )
    log.warning(
        "out of fold: %d trials are left out, since their pretrained weights have seen cases of other folds: %s",
        len(seen),
        ", ".join(seen),
    )
    return {name: found for name, found in outcomes.items() if name not in seen}


def _has_seen(outcome: TrialOutcome, prepared: Prepared) -> bool:
    import torch

    from overread.architectures.contract import build_segmenter
    from overread.training.seen import check_unseen

    if outcome.state == "failed":  # no candidate: it may not even be built
        return False
    with torch.device("meta"):
        named = build_segmenter(outcome.config).pretrained()
    try:
        for weights in named:
            for fold in range(len(prepared.splits.folds)):
                check_unseen(Path(weights.path), prepared, fold)
    except UserError:
        return True
    return False


def twin_config(outcome: TrialOutcome, prepared: Prepared, fold: int) -> TrialConfig:
    """Return the config of a trial's training with another fold held out.

    It ends at the step of the kept weights, and its schedule runs on as the trial's own did, both longer by as much as
    there are more cases: ended early, neither network has annealed.
    """
    config, kept = retrained_config(outcome, prepared, fold=fold), kept_epoch(outcome)
    end, whole = config.steps or 1, outcome.config.steps or kept.step  # an outcome with epochs has its steps resolved
    return replace(config, steps=round(whole * end / kept.step), stop_step=end)
