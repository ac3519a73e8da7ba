import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher

from overread.cluster.job import TrialJob
from overread.records import EpochReport, TrialOutcome, VariantScore
from overread.search.searcher import JobBook, JobSearch, Rules, lost_trials, main_dice, settle, tell
from overread.search.stopping import FairStopping
from overread.testing.tiny import tiny_config

COMPLETE, PRUNED, FAIL, RUNNING, WAITING = (
    getattr(optuna.trial.TrialState, name) for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
)


def searcher(folder: Path, storage: Any = None, **fields: Any) -> JobSearch:
    def make_job(trial: optuna.Trial, workers: int) -> TrialJob:
        trial.suggest_float("x", 0.0, 1.0)
        return TrialJob(
            trial_id=f"{trial.number:04d}-tiny",
            number=trial.number,
            folder=str(folder / f"{trial.number:04d}-tiny"),
            config=tiny_config(),
            workers=workers,
        )

    return JobSearch(
        make_job,
        sampler=optuna.samplers.RandomSampler(seed=0),
        storage=storage or optuna.storages.InMemoryStorage(),
        study_name="s",
        policy=FairStopping(),
        book=JobBook(**fields),
        rules=Rules(slots=2, trials=3, workers=lambda number: 1 + number % 2, time_left=lambda number: True),
    )


def outcome(trial_id: str, state: Any = "finished", dice: float = 0.5, epochs: int = 1) -> TrialOutcome:
    score = VariantScore(variant="main", dice=dice, dice_per_class={}, cases=1, seconds_per_case=0.0)
    reports = tuple(
        EpochReport(epoch=i, step=i, progress=25 * i, seconds=0.0, metrics={"validation_dice": dice})
        for i in range(1, epochs + 1)
    )
    variants = () if state == "failed" else (score,)
    return TrialOutcome(trial_id=trial_id, config=tiny_config(), state=state, variants=variants, epochs=reports)


def end(search: JobSearch, tune_id: str, result: TrialOutcome) -> None:
    result.save(search.book.running[tune_id].path / "outcome.json")
    search.on_trial_complete(tune_id, {})


def test_a_trial_waits_until_its_workers_are_free(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    first = TrialJob.from_json(json.loads(search.suggest("a")["job"]))
    assert TrialJob.load(tmp_path / "0000-tiny" / "job.json") == first
    assert search.suggest("b") is None  # one worker is busy, the next trial needs two
    end(search, "a", outcome("0000-tiny"))
    assert search.suggest("b") is not None
    assert search.suggest("c") is None
    end(search, "b", outcome("0001-tiny"))
    assert search.suggest("c") is not None
    assert search.suggest("d") == Searcher.FINISHED
    assert [trial.state for trial in search.study.trials] == [COMPLETE, COMPLETE, RUNNING]


def test_no_time_no_trial(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    search.rules.time_left = lambda number: number == 0
    assert search.suggest("a") is not None
    assert search.suggest("b") == Searcher.FINISHED


def test_reports_go_to_the_study_at_their_progress_and_only_once(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    search.suggest("a")
    for value in (0.25, 0.75):
        search.on_trial_result("a", {"report": "{}", "progress": 50, "validation_dice": value, "training_iteration": 1})
    search.on_trial_result("a", {"validation_dice": 0.9})  # the summary at the end is no validation
    assert search.study.trials[0].intermediate_values == {50: 0.25}


@pytest.mark.parametrize(
    ("result", "state", "value"),
    [
        (outcome("t", dice=0.75), COMPLETE, 0.75),
        (outcome("t", "failed"), FAIL, None),
        (outcome("t", "stopped", epochs=0), FAIL, None),
        (outcome("t", "stopped"), PRUNED, 0.5),
    ],
)
def test_the_end_of_a_trial_is_told_once(result: TrialOutcome, state: Any, value: float | None) -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    trial.report(0.5, 25)
    job = TrialJob(trial_id="t", number=0, folder="t", config=tiny_config())
    tell(study, 0, result, main_dice(job, result))
    tell(study, 0, result, main_dice(job, result))
    assert (study.trials[0].state, study.trials[0].value) == (state, value)


def test_the_value_may_be_another_than_the_dice() -> None:
    study = optuna.create_study(direction="maximize")
    study.ask(), study.ask()
    tell(study, 0, outcome("t", dice=0.75), -0.01)
    tell(study, 1, outcome("t", dice=0.75), None)
    assert [(t.state, t.value) for t in study.trials] == [(COMPLETE, -0.01), (FAIL, None)]


def test_a_trial_that_leaves_nothing_has_failed(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    search.suggest("a")
    search.on_trial_complete("a", None, error=True)
    assert TrialOutcome.load(tmp_path / "0000-tiny" / "outcome.json").reason == "the process of the trial died"
    assert search.study.trials[0].state == FAIL
    assert search.book.busy == 0


def test_unfinished_jobs_are_given_out_again_first_under_their_own_number(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    before = searcher(tmp_path, storage)
    before.suggest("a")
    job = before.book.running["a"]
    after = searcher(tmp_path, storage, pending=[job], given=1)
    assert TrialJob.from_json(json.loads(after.suggest("x")["job"])) == job
    end(after, "x", outcome("0000-tiny", dice=0.75))
    assert after.suggest("y") is not None
    assert [(trial.state, trial.value) for trial in after.study.trials] == [(COMPLETE, 0.75), (RUNNING, None)]


def test_trials_that_were_asked_for_and_never_started_are_the_next_fresh_ones(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    before = searcher(tmp_path, storage)
    before.study.enqueue_trial({"x": 0.5})
    before.study.enqueue_trial({"x": 0.75})
    before.study.ask()  # and killed before its job was written
    assert lost_trials(before.study, known=[]) == [0]
    assert lost_trials(before.study, known=[0]) == []
    after = searcher(tmp_path, storage, lost=[0])
    for name in ("x", "y"):
        after.suggest(name)
        after.book.running.clear()
    assert [(trial.number, trial.params) for trial in after.study.trials] == [(0, {"x": 0.5}), (1, {"x": 0.75})]


def overdue_job(folder: Path) -> TrialJob:
    return TrialJob(trial_id="t", number=0, folder=str(folder / "t"), config=tiny_config(), deadline=100.0)


@pytest.mark.parametrize(
    ("now", "reason"),
    [(99.0, "the process of the trial died"), (100.0, "it did not end within the time of the search")],
)
def test_a_trial_that_died_or_hung_counts_as_at_its_last_validation(tmp_path: Path, now: float, reason: str) -> None:
    job = overdue_job(tmp_path)
    progress = replace(outcome("t", "stopped", epochs=2), reason="stopped early", weights="weights.safetensors")
    progress.save(job.path / "progress.json")
    (job.path / "weights.safetensors").write_bytes(b"weights")
    ended = settle(job, now=lambda: now)
    assert ended == replace(progress, reason=reason)
    assert TrialOutcome.load(job.path / "outcome.json") == ended


def test_a_trial_without_the_weights_of_a_validation_has_failed(tmp_path: Path) -> None:
    job = overdue_job(tmp_path)
    replace(outcome("t", "stopped"), weights="weights.safetensors").save(job.path / "progress.json")
    ended = settle(job, now=lambda: 0.0)
    assert (ended.state, ended.weights, ended.reason) == ("failed", None, "the process of the trial died")


def test_there_is_nothing_next_without_time_unless_a_trial_was_left(tmp_path: Path) -> None:
    search = searcher(tmp_path)
    assert search.has_next()
    search.rules.time_left = lambda number: False
    assert not search.has_next()
    search.book.pending.append(overdue_job(tmp_path))
    assert search.has_next()
