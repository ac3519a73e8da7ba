"""One training with a given config, on the cluster, by the same trial function as in a search."""

from __future__ import annotations

import shutil
from pathlib import Path

from overread.cluster.job import JOB, OUTCOME, RESUME, TrialJob
from overread.cluster.session import apply_settings, available, require_gpus, threads_each
from overread.cluster.torch_trainer import release_group
from overread.cluster.trainable import Worker, default_worker, resources, trial_function
from overread.errors import OverreadError, UserError
from overread.records import Prepared, TrialConfig, TrialOutcome


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

    Must run inside a Ray session. Raises `UserError` when there are too few CPUs or GPUs, `OverreadError` with the
    worker's reason when the training failed.
    """
    here = available()
    if workers > here.cpus:
        raise UserError(f"workers must find a CPU each, but {workers} workers share {here.cpus}: use fewer or --cpus")
    require_gpus(gpus_per_worker * workers, here)
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
    _run(job, prepared, worker)
    outcome = job.outcome()
    if outcome is None or outcome.state == "failed":
        reason = outcome.reason if outcome else "it ended without an outcome"
        raise OverreadError(f"training {out.name} failed: {reason} (details in {out / 'error.txt'})")
    (out / RESUME).unlink(missing_ok=True)
    return outcome


def _run(job: TrialJob, prepared: Prepared, worker: Worker) -> None:
    apply_settings()
    import json

    from ray import tune

    scratch = job.path / "tune"
    function = tune.with_parameters(trial_function, prepared=prepared, worker=worker)
    config = {"job": json.dumps(job.to_json())}
    try:
        tune.Tuner(
            tune.with_resources(function, resources),
            param_space=config,
            run_config=tune.RunConfig(name="tune", storage_path=str(scratch), verbose=0),
        ).fit()
    finally:
        release_group(job.path)
        shutil.rmtree(scratch, ignore_errors=True)
