"""A trial as a Tune function: one worker runs in the trial's own process, several as a Ray Train worker group.

Both ways call the same worker function (`training.worker.train_trial`). A trial never ends by an exception of its own:
whatever goes wrong becomes a failed outcome with its reason. Only the death of a process reaches Tune, which then
starts the trial again from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.cluster.contribution import measure_contribution
from overread.cluster.job import OUTCOME, StopSignal, TrialJob, failed_outcome, last_checkpoint, remember_checkpoint
from overread.errors import TrialFailure
from overread.records import EpochReport, Prepared, TrialConfig, TrialOutcome

if TYPE_CHECKING:
    from overread.training.worker import WorkerContext

Worker = Callable[[TrialConfig, Prepared, "WorkerContext"], TrialOutcome]
Send = Callable[[dict[str, Any]], object]
"""Takes the metrics of one report to Tune or to Ray Train."""

logger = logging.getLogger(__name__)


def default_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Train one trial (`training.worker.train_trial`, imported where it runs)."""
    from overread.training.worker import train_trial

    return train_trial(config, prepared, context)


def resources(config: dict[str, Any]) -> Any:
    """Return what Tune reserves for the trial's own process: nothing when a worker group does the work."""
    from ray import tune

    job = parse_job(config)
    if uses_group(job):
        return tune.PlacementGroupFactory([{"memory": 1}])  # Tune refuses an empty request; CPUs are for the workers
    bundle = {"CPU": float(job.threads)} | ({"GPU": job.gpus_per_worker} if job.gpus_per_worker else {})
    return tune.PlacementGroupFactory([bundle])


def uses_group(job: TrialJob) -> bool:
    """Return whether a trial runs as a Ray Train worker group."""
    return job.workers > 1 or job.trainer


def parse_job(config: dict[str, Any]) -> TrialJob:
    """Read the job from a Tune config."""
    return TrialJob.from_json(json.loads(config["job"]))


def trial_function(config: dict[str, Any], prepared: Prepared, worker: Worker) -> None:
    """Run one trial and report its end; called by Tune in the trial's process."""
    from ray import tune

    job = parse_job(config)
    outcome = job.outcome()  # there already when the process died between the outcome and its report
    if outcome is None:
        outcome = _run_in_group(job, prepared, worker) if uses_group(job) else _run_here(job, prepared, worker)
    measure_contribution(job, prepared, outcome)
    tune.report(summary(outcome))


def summary(outcome: TrialOutcome) -> dict[str, Any]:
    """Return the last report of a trial: its state and value (0 when it has none)."""
    value = outcome.variants[0].dice if outcome.variants else 0.0
    return {"state": outcome.state, "validation_dice": value}


def epoch_metrics(report: EpochReport) -> dict[str, Any]:
    """Return the metrics that carry a report to the driver; without validation cases the value is 0."""
    value = report.metrics.get("validation_dice", 0.0)
    return {"report": json.dumps(report.to_json()), "progress": report.progress, "validation_dice": value}


def make_reporter(job: TrialJob, rank: int, send: Send) -> Callable[[EpochReport, Path | None], None]:
    """Return the worker's `report`: rank 0 notes its checkpoint, then every rank sends."""

    def report(epoch: EpochReport, checkpoint: Path | None) -> None:
        if rank == 0 and checkpoint is not None:
            remember_checkpoint(job.path, checkpoint)
        send(epoch_metrics(epoch))

    return report


def explain(outcome: TrialOutcome, reason: str, folder: Path) -> TrialOutcome:
    """Put the reason of a stop into an outcome that has none."""
    if outcome.state != "stopped" or not reason or outcome.reason == reason:
        return outcome
    outcome = replace(outcome, reason=reason)
    outcome.save(folder / OUTCOME)
    return outcome


def _run_here(job: TrialJob, prepared: Prepared, worker: Worker) -> TrialOutcome:
    import torch
    from ray import tune

    from overread.training.worker import WorkerContext

    torch.set_num_threads(job.threads)
    stop = StopSignal(job=job)
    context = WorkerContext(
        trial_id=job.trial_id,
        folder=job.path,
        device=torch.device("cuda" if job.gpus_per_worker else "cpu"),
        threads=job.threads,
        report=make_reporter(job, 0, tune.report),
        resume=last_checkpoint(job.path),
        wrap=lambda module: module,
        should_stop=stop,
    )
    try:
        return explain(worker(job.config, prepared, context), stop.reason, job.path)
    except Exception as error:
        return fail(job, error, traceback.format_exc())


def _run_in_group(job: TrialJob, prepared: Prepared, worker: Worker) -> TrialOutcome:
    from overread.cluster.torch_trainer import WorkerDied, run_group

    try:
        run_group(job, prepared, worker)
    except WorkerDied:
        raise  # Tune starts the trial again from its last checkpoint
    except Exception as error:
        return fail(job, error, traceback.format_exc())
    return job.outcome() or failed_outcome(job, "the workers ended without an outcome")


def fail(job: TrialJob, error: BaseException, trace: str) -> TrialOutcome:
    """Write the failed outcome of an error, and its traceback beside it."""
    job.path.mkdir(parents=True, exist_ok=True)
    (job.path / "error.txt").write_text(trace)
    reason = str(error) if isinstance(error, TrialFailure) else f"{type(error).__name__}: {error}"
    logger.warning("trial %s failed: %s", job.trial_id, reason)
    return failed_outcome(job, reason)
