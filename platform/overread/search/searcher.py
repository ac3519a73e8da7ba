"""Ray Tune's `OptunaSearch` with jobs: what to try comes from Optuna, when to start from free workers and time left.

The study is a journal on disk and every job a file in its trial's folder, written before the trial starts. A resumed
search opens both: trials with an outcome are told to the study, those without are given out again, first, under their
own id. Nothing is restored from Ray's pickles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from overread.cluster.job import JOB, TrialJob, failed_outcome, rescued_outcome
from overread.records import TrialOutcome
from overread.search.stopping import FairStopping


@dataclass(kw_only=True)
class Rules:
    """When a trial may start."""

    slots: int
    """Workers at once."""
    trials: int | None
    """Trials of the whole search; None: as many as fit."""
    workers: Callable[[int], int]
    """Workers of trial number n."""
    time_left: Callable[[int], bool]
    """Whether trial number n is worth starting now."""


@dataclass(kw_only=True)
class JobBook:
    """The jobs of a search by Tune's ids, and those to give out again."""

    pending: list[TrialJob] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Numbers of trials that a killed driver asked for and never started: the next fresh ones."""
    running: dict[str, TrialJob] = field(default_factory=dict)
    given: int = 0
    """Trials given out over all sessions."""

    @property
    def busy(self) -> int:
        """Workers in use."""
        return sum(job.workers for job in self.running.values())


def main_dice(job: TrialJob, outcome: TrialOutcome) -> float | None:
    """Return the validation Dice of a trial's main variant, None without one."""
    return outcome.variants[0].dice if outcome.variants else None


class JobSearch(OptunaSearch):
    """Gives out jobs. `make_job(optuna_trial, workers)` turns a fresh Optuna trial into one."""

    def __init__(
        self,
        make_job: Callable[[optuna.Trial, int], TrialJob],
        *,
        sampler: optuna.samplers.BaseSampler,
        storage: optuna.storages.BaseStorage,
        study_name: str,
        rules: Rules,
        policy: FairStopping,
        book: JobBook,
        value: Callable[[TrialJob, TrialOutcome], float | None] = main_dice,
    ) -> None:
        super().__init__(
            space=lambda trial: {}, metric="validation_dice", mode="max", sampler=sampler, storage=storage,
            study_name=study_name,
        )  # fmt: skip
        self._make_job, self.rules, self.policy, self.book = make_job, rules, policy, book
        self._value = value

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that we do not use

    @property
    def study(self) -> optuna.Study:
        """The study behind the search."""
        return self._ot_study

    def has_next(self) -> bool:
        """Return whether there is a trial to run now."""
        return bool(self.book.pending) or not self._at_end()

    def suggest(self, trial_id: str) -> Any:
        """Return the config of the next trial, None while no worker is free, or FINISHED."""
        book, fresh = self.book, not self.book.pending
        if fresh and self._at_end():
            return Searcher.FINISHED
        need = self.rules.workers(book.given) if fresh else book.pending[0].workers
        if book.busy + need > self.rules.slots:
            return None
        job = self._new_job(trial_id, need) if fresh else self._old_job(trial_id)
        book.running[trial_id] = job
        return {"job": _text(job)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a validation to the study, at the progress of the trial."""
        value = float(result["validation_dice"])
        if "report" in result and math.isfinite(value):
            _report(self._ot_trials[trial_id], value, int(result["progress"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended and free its workers."""
        job = self.book.running.pop(trial_id, None)
        if job is not None:
            outcome = settle(job)
            tell(self.study, job.number, outcome, self._value(job, outcome))
            if outcome.state == "failed":
                self.policy.fail(job.trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the journal and the jobs are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing (see `save`)."""

    def _at_end(self) -> bool:
        trials = self.rules.trials
        return (trials is not None and self.book.given >= trials) or not self.rules.time_left(self.book.given)

    def _new_job(self, trial_id: str, workers: int) -> TrialJob:
        # A lost trial keeps its number, its point and what was drawn for it, so points stay in their order.
        trial = self._reopen(self.book.lost.pop(0)) if self.book.lost else self.study.ask()
        job = self._make_job(trial, workers)
        self._ot_trials[trial_id] = trial
        self.book.given += 1
        job.save(job.path / JOB)
        return job

    def _old_job(self, trial_id: str) -> TrialJob:
        job = self.book.pending.pop(0)
        self._ot_trials[trial_id] = self._reopen(job.number)
        return job

    def _reopen(self, number: int) -> optuna.Trial:
        stored = next(trial for trial in self.study.get_trials(deepcopy=False) if trial.number == number)
        return optuna.Trial(self.study, stored._trial_id)


def settle(job: TrialJob, now: Callable[[], float] = time.time) -> TrialOutcome:
    """Return the outcome of a trial that has ended.

    One that left none (its process died twice, or hung) counts as stopped at its last validation; without it, as
    failed.
    """
    overdue = job.deadline is not None and now() >= job.deadline
    reason = "it did not end within the time of the search" if overdue else "the process of the trial died"
    return job.outcome() or rescued_outcome(job, reason) or failed_outcome(job, reason)


def tell(study: optuna.Study, number: int, outcome: TrialOutcome, value: float | None) -> None:
    """Tell the study the end of a trial and its value; a second time does nothing.

    A finished trial without a value counts as failed. A stopped one is told as pruned: TPE then ranks it below the
    finished ones, by how far it came.
    """
    stopped = outcome.state == "stopped" and bool(outcome.epochs)
    if outcome.state == "finished" and value is not None and math.isfinite(value):
        study.tell(number, value, state=optuna.trial.TrialState.COMPLETE, skip_if_finished=True)
    elif stopped:
        study.tell(number, None, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(number, None, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)


def lost_trials(study: optuna.Study, known: Iterable[int]) -> list[int]:
    """Return the numbers of trials that a killed driver asked for and for which it wrote no job."""
    numbers = set(known)
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return sorted(trial.number for trial in running if trial.number not in numbers)


def _report(trial: optuna.Trial, value: float, progress: int) -> None:
    stored = trial.study.get_trials(deepcopy=False)[trial.number]
    if progress not in stored.intermediate_values:  # a resumed trial may say an epoch again
        trial.report(value, progress)


def _text(job: TrialJob) -> str:
    import json

    return json.dumps(job.to_json())
