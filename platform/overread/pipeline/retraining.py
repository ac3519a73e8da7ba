"""Deep ensembles (Lakshminarayanan et al. 2017): the winners of a run trained again, on more cases and with new seeds.

Every member sees the cases of all folds: locked and calibration cases stay out, and no case is left to validate on. So
nothing may be chosen any more: steps and votes are those of the winners. A winner's network is trained for as many
passes over the cases as its kept weights had, its schedule compressed into them, and the last weights are kept. The
result is a run folder of its own, whose package is calibrated: `overread evaluate` reads the locked split with it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from overread.cluster.job import JOB, OUTCOME, TrialJob
from overread.cluster.session import available, require_workers, threads_each
from overread.confidence.conformal import COVERAGE
from overread.confidence.judgement import Judgement
from overread.data.hashing import file_sha256
from overread.data.prepare import MapCases
from overread.errors import OverreadError, UserError
from overread.pipeline.calibrating import calibrate_if_possible, check_unchanged
from overread.pipeline.folders import RunFolder, claim
from overread.pipeline.stages import Run, open_run, optional, package
from overread.pipeline.winners import freeze
from overread.records import ALL_FOLDS, EpochReport, Member, Prepared, TrialConfig, TrialOutcome, Winners
from overread.search.leaderboard import TRIALS, read_outcomes
from overread.search.single import train_all
from overread.training.seeds import derived_seed


def retrain(
    source: Path,
    out: Path,
    map_cases: MapCases,
    *,
    seeds: int,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    coverage: float = COVERAGE,
    resume: bool = False,
    overwrite: bool = False,
) -> tuple[Winners, Judgement | None]:
    """Train every winner of the run in `source` with `seeds` new seeds, in parallel, into a package in `out`.

    Must run inside a Ray session. Raises `UserError` for a run without winners, `OverreadError` when a training failed:
    `resume` goes on with those that are missing.
    """
    origin = open_run(RunFolder(source.resolve()), map_cases)
    winners = _winners(origin)
    record = replace(
        origin.record,
        search_id=f"{out.resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}",
        retrained_from=str(origin.folder.root),
        retrained_winners=winners.fingerprint(),
    )
    require_workers(workers, gpus_per_worker, available())
    folder = claim(out, record, resume=resume, overwrite=overwrite)
    check_unchanged(folder, coverage)
    run = open_run(folder, map_cases, prepared=origin.prepared)
    outcomes = read_outcomes(origin.folder.search)
    trials = list(dict.fromkeys(member.trial_id for member in winners.members))
    configs = {
        _name(trial, seed): retrained_config(outcomes[trial][0], run.prepared, seed)
        for seed in range(1, seeds + 1)
        for trial in trials
    }
    jobs = jobs_for(configs, folder.search / TRIALS, workers=workers, gpus_per_worker=gpus_per_worker)
    ended, failed = train_jobs(jobs, run.prepared, run.folder.search / "tune")
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OverreadError(f"{len(failed)} of {len(jobs)} trainings failed, --resume tries again: {reasons}")
    frozen = freeze(folder, _deep(run, winners, ended, seeds))
    with optional("writing the trainings"):
        run.tracker.sync(read_outcomes(folder.search))
    package(run, frozen)
    return frozen, calibrate_if_possible(run, map_cases, coverage=coverage, gpus=gpus_per_worker)


def jobs_for(
    configs: Mapping[str, TrialConfig], folder: Path, *, workers: int = 1, gpus_per_worker: float = 0.0
) -> list[TrialJob]:
    """Return a job per config in a folder of its name, as many side by side as the session has CPUs and GPUs for."""
    here = available()
    together = max(1, min(len(configs), here.cpus // workers))
    if gpus_per_worker:
        together = max(1, min(together, int(here.gpus / (gpus_per_worker * workers))))
    return [
        TrialJob(
            trial_id=name,
            number=number,
            folder=str(folder / name),
            config=config,
            workers=workers,
            threads=threads_each(together * workers, here.cpus, here.cpus_per_node),
            gpus_per_worker=gpus_per_worker,
            protected=True,
        )
        for number, (name, config) in enumerate(configs.items())
    ]


def retrained_config(
    outcome: TrialOutcome, prepared: Prepared, seed: int | None = None, *, fold: int = ALL_FOLDS
) -> TrialConfig:
    """Return the config of the `seed`-th training of a trial (None: with its own seed), with `fold` held out.

    The steps are those of the kept weights, more by as much as there are more cases.
    """
    kept, config = kept_epoch(outcome), outcome.config
    before, now = (len(prepared.splits.fold(held_out).train) for held_out in (config.fold, fold))
    return replace(
        config,
        steps=max(1, round(kept.step * now / before)),
        train_seconds=None,
        epochs=kept.epoch,
        patience=None,
        keep="last",
        fold=fold,
        seed=config.seed if seed is None else derived_seed(config.seed, seed) % 2**31,
        baseline=False,
    )


def kept_epoch(outcome: TrialOutcome) -> EpochReport:
    """Return the report of the epoch whose weights a trial kept: the last, or the first of the best validation Dice."""
    if not outcome.epochs:
        raise UserError(f"trial {outcome.trial_id} must have epochs to be retrained, but has none: choose another")
    if outcome.config.keep == "last":
        return outcome.epochs[-1]
    return max(outcome.epochs, key=lambda report: report.metrics.get("validation_dice", -1.0))


def _winners(origin: Run) -> Winners:
    path = origin.folder.winners
    if not path.is_file():
        raise UserError(f"{path} must exist, but it does not: run `overread ensemble --out {origin.folder.root}` first")
    if origin.record.retrained_from is not None:
        raise UserError(f"--winners must be a run with a search, but {origin.folder.root} is itself retrained")
    winners = Winners.load(path)
    if winners.prepared != origin.prepared.content:
        raise UserError(f"winners of {origin.folder.root} must be of its data, but these have changed: search again")
    if not winners.members:
        raise UserError(f"--winners must have trained members, but those of {origin.folder.root} are all imported")
    return winners


def _name(trial: str, seed: int) -> str:
    return f"{trial}-seed{seed}"


def train_jobs(
    jobs: Sequence[TrialJob], prepared: Prepared, scratch: Path
) -> tuple[dict[str, TrialOutcome], dict[str, str]]:
    """Run the jobs that have not ended yet; return the finished outcomes by trial id, and why others failed.

    A folder that holds a training of another config is emptied first: its checkpoint would be refused.
    """
    for job in jobs:
        if (job.path / JOB).is_file() and TrialJob.load(job.path / JOB).config != job.config:
            shutil.rmtree(job.path)
        elif (outcome := job.outcome()) and outcome.state != "finished":
            (job.path / OUTCOME).unlink()  # tried again, from its checkpoint if there is one
        job.save(job.path / JOB)
    waiting = [job for job in jobs if job.outcome() is None]
    if waiting:
        train_all(waiting, prepared, scratch=scratch)
    finished, failed = dict[str, TrialOutcome](), dict[str, str]()
    for job in jobs:
        outcome = job.outcome()
        if outcome is not None and outcome.state == "finished":
            finished[job.trial_id] = outcome
        else:
            failed[job.trial_id] = outcome.reason if outcome else "no outcome"
    return finished, failed


def _deep(run: Run, winners: Winners, ended: dict[str, TrialOutcome], seeds: int) -> Winners:
    """Return every winner once for each seed, with its vote; other tools' readings stay members as they are."""
    members = []
    for seed in range(1, seeds + 1):
        for winner in winners.members:
            outcome = ended[_name(winner.trial_id, seed)]
            weights = run.folder.search / TRIALS / outcome.trial_id / str(outcome.weights)
            members.append(
                Member(
                    name=f"{winner.name}-seed{seed}",
                    trial_id=outcome.trial_id,
                    architecture=winner.architecture,
                    variant=winner.variant,
                    config=outcome.config,
                    weights=Path(os.path.relpath(weights, run.folder.root)).as_posix(),
                    sha256=file_sha256(weights),
                    validation_dice=winner.validation_dice,
                    weight=winner.weight,
                    class_weights=winner.class_weights,
                )
            )
    # A vote of the networks counts `seeds` times now.
    imported = tuple(
        replace(
            member,
            weight=member.weight * seeds,
            class_weights=tuple(weight * seeds for weight in member.class_weights),
        )
        for member in winners.imported
    )
    return Winners(
        rule=f"deep ensemble: each winner retrained on the cases of all folds with {seeds} new seeds; {winners.rule}",
        members=tuple(members),
        prepared=winners.prepared,
        folds=(ALL_FOLDS,),
        fusion=winners.fusion,
        imported=imported,
    )
