"""One trial as the cluster runs it, and the files by which driver and workers speak.

A trial's folder (shared storage) holds `job.json` (written before the trial starts), `resume.json` (the last
checkpoint), `stop.json` (the driver asks the trial to end), and `outcome.json` (written last). These files, and not
the pickles of Ray, are what a killed search resumes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from overread.jsonio import JsonRecord, read_json, write_json
from overread.records import EpochReport, TrialConfig, TrialOutcome

JOB, RESUME, STOP, OUTCOME, GROUP = "job.json", "resume.json", "stop.json", "outcome.json", "placement_group.json"
PROGRESS = "progress.json"
"""The outcome if the trial were stopped now; written by the worker after each validation."""
SEARCH_ENDED = "end of the search's time"


@dataclass(frozen=True, kw_only=True)
class WorkerJob(JsonRecord):
    """What workers do together, with its place."""

    trial_id: str
    folder: str
    workers: int = 1
    threads: int = 1
    """Torch threads (and CPUs) of each worker."""
    gpus_per_worker: float = 0.0
    deadline: float | None = None
    """Unix time after which training stops (and a trial is evaluated)."""

    @property
    def path(self) -> Path:
        """The folder of its files."""
        return Path(self.folder)


@dataclass(frozen=True, kw_only=True)
class TrialJob(WorkerJob):
    """A trial with its place: what Tune passes to the trial function."""

    number: int
    """Number of the trial in the Optuna study."""
    config: TrialConfig
    protected: bool = False
    """Never stopped early: the first of its family."""
    trainer: bool = False
    """Run as a Ray Train worker group even with one worker."""
    by_gain: bool = False
    """Measure at its end what it adds to the current ensemble of the search."""

    def outcome(self) -> TrialOutcome | None:
        """Return how the trial ended, or None when it has not."""
        path = self.path / OUTCOME
        return TrialOutcome.load(path) if path.exists() else None


def request_stop(folder: Path, reason: str) -> None:
    """Ask a running trial to end after its current step; it still evaluates and writes its outcome."""
    write_json(folder / STOP, {"reason": reason})


@dataclass(kw_only=True)
class StopSignal:
    """Tells a worker, at every step, whether to end: the deadline has passed or the driver has asked.

    The file is looked at every `interval` seconds only: shared storage is slow.
    """

    job: WorkerJob
    clock: Callable[[], float] = time.time
    interval: float = 0.2
    reason: str = ""
    _looked: float = field(default=0.0, init=False)

    def __call__(self) -> bool:
        """Return whether to end; once true, it stays true."""
        now = self.clock()
        if self.reason:
            return True
        if self.job.deadline is not None and now >= self.job.deadline:
            self.reason = SEARCH_ENDED
        elif now - self._looked >= self.interval:
            self._looked = now
            path = self.job.path / STOP
            self.reason = str(read_json(path)["reason"]) if path.exists() else ""
        return bool(self.reason)


def remember_checkpoint(folder: Path, checkpoint: Path) -> None:
    """Note the last complete checkpoint, relative to the folder where it lies inside."""
    inside = checkpoint.is_relative_to(folder)
    write_json(folder / RESUME, {"checkpoint": str(checkpoint.relative_to(folder) if inside else checkpoint)})


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to resume from, or None for a fresh start."""
    path = folder / RESUME
    if not path.exists():
        return None
    checkpoint = folder / str(read_json(path)["checkpoint"])
    return checkpoint if checkpoint.exists() else None


def rescued_outcome(job: TrialJob, reason: str) -> TrialOutcome | None:
    """Write and return the outcome as it stood at the last validation, or None when there are no weights of it."""
    if not (job.path / PROGRESS).exists():
        return None
    outcome = replace(TrialOutcome.load(job.path / PROGRESS), state="stopped", reason=reason)
    if outcome.weights is None or not (job.path / outcome.weights).exists():
        return None
    outcome.save(job.path / OUTCOME)
    return outcome


def failed_outcome(job: TrialJob, reason: str, epochs: tuple[EpochReport, ...] = ()) -> TrialOutcome:
    """Write and return the outcome of a trial that could not go on."""
    outcome = TrialOutcome(
        trial_id=job.trial_id, config=job.config, state="failed", reason=reason, epochs=epochs, workers=job.workers
    )
    outcome.save(job.path / OUTCOME)
    return outcome
