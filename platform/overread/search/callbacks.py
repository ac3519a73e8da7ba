"""What the driver does when a trial starts, reports and ends: MLflow, the clock, and lines for the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from overread.cluster.job import TrialJob
from overread.cluster.torch_trainer import release_group
from overread.cluster.trainable import parse_job
from overread.records import EpochReport, TrialOutcome
from overread.search.clock import SearchClock
from overread.search.searcher import settle
from overread.search.tracked import guarded

if TYPE_CHECKING:
    from overread.tracking.runs import Tracker

Notify = Callable[[str], object]


class TrialCallback(tune.Callback):
    """Follows the trials of a search. A tracking server that fails is a warning, never the end of a search."""

    def __init__(self, clock: SearchClock, tracker: Tracker | None, notify: Notify) -> None:
        self.clock, self.tracker, self.notify = clock, tracker, notify
        self.ended = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that we do not use

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run."""
        job = parse_job(trial.config)
        if self.tracker is not None:
            guarded(self.tracker.start_trial, job.trial_id, job.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log a validation and note the time used."""
        self.clock.save()
        if "report" in result and self.tracker is not None:
            report = EpochReport.from_json(json.loads(result["report"]))
            guarded(self.tracker.log_epoch, parse_job(trial.config).trial_id, report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log the outcome."""
        self._end(parse_job(trial.config))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log what is left of a trial whose process died."""
        self._end(parse_job(trial.config))

    def _end(self, job: TrialJob) -> None:
        release_group(job.path)
        outcome = settle(job)
        self.ended += 1
        self.notify(describe(outcome))
        if self.tracker is not None:
            guarded(self.tracker.finish_trial, job.trial_id, outcome, Path(job.folder))


def describe(outcome: TrialOutcome) -> str:
    """Return one line about a trial that has ended."""
    value = f"Dice {outcome.variants[0].dice:.3f}" if outcome.variants else "no result"
    line = f"trial {outcome.trial_id}: {outcome.state}, {value}, {outcome.seconds:.0f} s"
    return f"{line} ({outcome.reason})" if outcome.reason else line
