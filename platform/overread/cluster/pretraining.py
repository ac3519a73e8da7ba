"""A DINO pretraining as the cluster runs it: a Ray Train worker group of 1..n workers, started by the driver.

Its folder holds `job.json` and what `training.pretraining` writes. Nothing else is needed to go on after a kill: the
checkpoint is found in the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from overread.cluster.job import StopSignal, WorkerJob
from overread.cluster.session import apply_settings
from overread.cluster.torch_trainer import WorkerDied, fit_group, rank_context, release_group
from overread.records import EpochReport
from overread.training.dino import PretrainConfig
from overread.training.pretraining import OUTCOME, PretrainOutcome, pretrain, saved_checkpoint

POLL = 0.3
"""Seconds between looks for new epochs."""
ATTEMPTS = 3
"""Times that a group is started when a process of it dies."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainJob(WorkerJob):
    """A pretraining with its place."""

    config: PretrainConfig
    prepared: str
    """Folder of the prepared data set, with its unlabelled images."""
    fold: int = 0
    """The fold that later trainings validate on: its cases are not seen."""

    def outcome(self) -> PretrainOutcome | None:
        """Return how the pretraining ended, or None when it has not."""
        path = self.path / OUTCOME
        return PretrainOutcome.load(path) if path.exists() else None


class Controller:
    """An actor that runs the group: Ray Train wants its controller in one. Its epochs are asked for meanwhile."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def run(self, job: PretrainJob) -> None:
        """Run the workers to their end."""
        apply_settings()

        def loop() -> None:
            pretrain_on_rank(job)

        fit_group(job, loop, self.reports.append)

    def since(self, count: int) -> list[dict[str, Any]]:
        """Return the reports after the first `count`."""
        return self.reports[count:]


def run_pretraining(job: PretrainJob, note: Callable[[EpochReport], object]) -> None:
    """Run the workers to their end; `note` gets every epoch, in the caller's process.

    A group of which a process died is started again from its last checkpoint. Raises the worker's own exception when
    its code failed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(job, note)
        except WorkerDied as error:
            if attempt == ATTEMPTS:
                raise
            logger.warning("a worker died (%s): going on from the last checkpoint", error)
        finally:
            release_group(job.path)
    return None


def _attempt(job: PretrainJob, note: Callable[[EpochReport], object]) -> None:
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    controller = ray.remote(num_cpus=0, max_concurrency=2)(Controller).remote()
    heard = 0
    try:
        waiting = [controller.run.remote(job)]
        (end,) = waiting
        while waiting:
            _, waiting = ray.wait(waiting, timeout=POLL)
            for metrics in ray.get(controller.since.remote(heard)):
                heard += 1
                note(EpochReport.from_json(json.loads(metrics["report"])))
        ray.get(end)
    except RayTaskError as error:
        raise getattr(error, "cause", None) or error from error
    except RayActorError as error:
        raise WorkerDied(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    finally:
        ray.kill(controller)


def pretrain_on_rank(job: PretrainJob) -> None:
    """Run as one rank of the group; called by Ray Train in each worker process."""
    from pathlib import Path

    import ray.train

    from overread.data.slices import Slices, pretraining_cases
    from overread.data.store import load_prepared

    def report(epoch: EpochReport, checkpoint: Path | None) -> None:
        ray.train.report({"report": json.dumps(epoch.to_json())})

    context = rank_context(job, StopSignal(job=job))
    context.report, context.resume = report, saved_checkpoint(job.path)
    prepared = load_prepared(Path(job.prepared))
    pretrain(job.config, Slices(prepared, pretraining_cases(prepared, job.fold)), context)
