"""One search: space, budget, study, Tune run, outcomes. Interrupted at any moment, it resumes from its folder.

The folder holds `settings.json`, `plan.json`, `study.journal` (Optuna), `clock.json`, `trials/<trial id>/` and, where
trials are valued by their gain, `ensemble.json` (`objective`) and `gains.json` (`cluster.contribution`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.cluster.contribution import current_members
from overread.cluster.session import apply_settings, available, session
from overread.cluster.trainable import Worker, default_worker, resources, trial_function
from overread.errors import UserError
from overread.records import Prepared, TrialOutcome
from overread.search import budget
from overread.search.checks import check_search
from overread.search.leaderboard import read_outcomes
from overread.search.opening import PLAN, SETTINGS, Search, make_searcher, open_search
from overread.search.settings import SearchSettings
from overread.search.tracked import guarded, short_waits
from overread.tracking.winners import tag_joined

if TYPE_CHECKING:
    from overread.search.searcher import JobSearch
    from overread.tracking.runs import Tracker

__all__ = ["SETTINGS", "SearchSettings", "check_search", "run_search"]
logger = logging.getLogger(__name__)
HARD_GRACE = 120.0
"""Seconds after the end of the search at which Tune kills a trial that hangs."""


def run_search(
    prepared: Prepared,
    out: Path,
    settings: SearchSettings,
    tracker: Tracker | None = None,
    *,
    worker: Worker = default_worker,
    timer: budget.Timer | None = None,
    notify: Callable[[str], object] = logger.info,
) -> tuple[TrialOutcome, ...]:
    """Search and return the outcomes of all trials, in the order of their ids.

    Runs in the current Ray session, or in one of its own. `worker` trains a trial and `timer` times a step: tests give
    fast doubles. `notify` gets a line per trial that ends. Raises `UserError` for wrong settings (before anything is
    written), a folder that holds another search, or when no trial gave weights.
    """
    out = Path(out).resolve()
    with session(num_cpus=settings.cpus), short_waits():
        here = available()
        check_search(settings, here.cpus, here.gpus, prepared)
        fresh = not (out / PLAN).exists()
        search = open_search(prepared, out, settings, here, timer)
        searcher = make_searcher(search)
        begin_tracking(search, tracker, fresh=fresh)
        if searcher.has_next():
            _run_tune(search, searcher, worker, tracker, notify)
        search.clock.save()
        outcomes = read_outcomes(out)
        end_tracking(outcomes, tracker, current_members(out))
    return _usable(outcomes)


def begin_tracking(search: Search, tracker: Tracker | None, *, fresh: bool) -> None:
    """Open the search's run and write what earlier sessions left. A wrong store ends a fresh search (`UserError`)."""
    if tracker is None:
        return
    guarded(tracker.search_run, _run_params(search), passing=(UserError,) if fresh else ())
    if not fresh:
        guarded(tracker.sync, read_outcomes(search.out))


def end_tracking(
    outcomes: dict[str, tuple[TrialOutcome, Path]], tracker: Tracker | None, joined: tuple[str, ...] = ()
) -> None:
    """Write what the tracker lacks, mark the trials that joined the search's ensemble, and close the search's run."""
    if tracker is None:
        return
    guarded(tracker.sync, outcomes)
    if joined:
        guarded(tag_joined, tracker, joined)
    guarded(tracker.end_search, "finished" if any(outcome.weights for outcome, _ in outcomes.values()) else "failed")


def _run_tune(
    search: Search, searcher: JobSearch, worker: Worker, tracker: Tracker | None, notify: Callable[[str], object]
) -> None:
    apply_settings()
    from ray import tune

    from overread.search.callbacks import TrialCallback
    from overread.search.scheduler import FairScheduler

    scratch = search.out / "ray"
    shutil.rmtree(scratch, ignore_errors=True)  # Tune's own files of a killed session: nothing is restored from them
    function = tune.with_parameters(trial_function, prepared=search.prepared, worker=worker)
    end = search.clock.end
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=FairScheduler(search.policy, search.settings.early_stopping),
            num_samples=-1,
            reuse_actors=True,
            time_budget_s=None if end is None else max(end - search.clock.now(), 1.0) + HARD_GRACE,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[TrialCallback(search.clock, tracker, notify)],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


def _run_params(search: Search) -> dict[str, Any]:
    plan = search.plan
    return {
        "space": search.settings.space,
        "architectures": ", ".join(plan.architectures),
        "objective": search.settings.objective,
        "seed": search.settings.seed,
        "fold": search.settings.fold,
        "seconds_per_trial": round(plan.seconds_per_trial, 1),
        "data": search.prepared.dataset,
        "data_content": search.prepared.content,
    }


def _usable(outcomes: dict[str, tuple[TrialOutcome, Path]]) -> tuple[TrialOutcome, ...]:
    found = tuple(outcome for outcome, _ in outcomes.values())
    if not any(outcome.weights for outcome in found):
        reason = next((outcome.reason for outcome in found if outcome.reason), "the time was too short for one")
        raise UserError(f"at least one trial must give a network, but none of {len(found)} did: {reason}")
    return found
