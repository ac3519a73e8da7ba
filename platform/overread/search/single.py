"""Trainings with given configs, on the cluster, by the same trial function as in a search."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overread.cluster.job import JOB, OUTCOME, RESUME, TrialJob
from overread.cluster.session import apply_settings, available, require_workers, threads_each
from overread.cluster.torch_trainer import release_group
from overread.cluster.trainable import Worker, default_worker, parse_job, resources, trial_function
from overread.errors import OverreadError
from overread.records import Prepared, TrialConfig, TrialOutcome
from overread.training.notes import notes
from overread.training.pretrained import check_pretrained

log = logging.getLogger(__name__)


def train_one(
    prepared: Prepared,
    config: TrialConfig,
    out: Path,
    *,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    fresh: bool = False,
    worker: Worker = default_worker,
) -> TrialOutcome:
    """Train into `out`, going on from its last checkpoint if there is one (`fresh`: from the start).

    Must run inside a Ray session. Raises `UserError`, before anything in `out` is touched, when the data do not fit the
    config or there are too few CPUs or GPUs, `OverreadError` with the worker's reason when the training failed.
    """
    from overread.training.worker import check_fits

    check_fits(config, prepared)
    check_pretrained([config])
    here = available()
    require_workers(workers, gpus_per_worker, here)
    out = out.resolve()
    if fresh and (out / JOB).is_file():
        shutil.rmtree(out)
    elif (out / OUTCOME).is_file() and TrialOutcome.load(out / OUTCOME).state == "failed":
        (out / OUTCOME).unlink()  # a failed training may be tried again
    job = TrialJob(
        trial_id=out.name,
        number=0,
        folder=str(out),
        config=config,
        workers=workers,
        threads=threads_each(workers, here.cpus, here.cpus_per_node),
        gpus_per_worker=gpus_per_worker,
        protected=True,
    )
    job.save(out / JOB)
    train_all([job], prepared, scratch=out / "tune", worker=worker)
    outcome = job.outcome()
    if outcome is None or outcome.state == "failed":
        reason = outcome.reason if outcome else "it ended without an outcome"
        raise OverreadError(f"training {out.name} failed: {reason} (details in {out / 'error.txt'})")
    return outcome


def train_all(jobs: Sequence[TrialJob], prepared: Prepared, *, scratch: Path, worker: Worker = default_worker) -> None:
    """Run jobs, as many at a time as there are CPUs for, in their order; their outcomes stand in their folders.

    Every `job.json` must be there. A job whose deadline has passed before its turn is left out; one whose deadline
    passes in mid-training ends as `stopped` and goes on from its checkpoint when its `outcome.json` is deleted.
    `scratch` is for Tune, and deleted.
    """
    apply_settings()
    from ray import tune

    check_pretrained(job.config for job in jobs)
    for line in notes([job.config for job in jobs], prepared):
        log.info("%s", line)
    function = tune.with_parameters(_in_time, prepared=prepared, worker=worker)
    try:
        tune.Tuner(
            tune.with_resources(function, resources),
            param_space={"job": tune.grid_search([json.dumps(job.to_json()) for job in jobs])},
            run_config=tune.RunConfig(name=scratch.name, storage_path=str(scratch.parent), verbose=0),
        ).fit()
    finally:
        for job in jobs:
            release_group(job.path)
            if (outcome := job.outcome()) and outcome.state == "finished":
                (job.path / RESUME).unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _in_time(config: dict[str, Any], prepared: Prepared, worker: Worker) -> None:
    from ray import tune

    deadline = parse_job(config).deadline
    if deadline is not None and time.time() >= deadline:
        tune.report({"state": "waiting", "validation_dice": 0.0})
    else:
        trial_function(config, prepared, worker)
