import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from overread.cluster.job import TrialJob
from overread.cluster.session import Resources
from overread.cluster.trainable import Worker
from overread.errors import UserError
from overread.jsonio import read_json
from overread.records import Prepared, TrialOutcome
from overread.search import study
from overread.search.leaderboard import read_outcomes
from overread.search.opening import Search, make_searcher, open_search
from overread.search.study import SearchSettings, begin_tracking, end_tracking, run_search
from overread.testing.search import (
    dying_worker,
    failing_worker,
    fast_timer,
    fast_worker,
    gradient_worker,
    slow_worker,
)
from overread.testing.tiny import tiny_prepared

SETTINGS = SearchSettings(trials=4, steps=40, epochs=4, cpus=2)
DRIVER = """
import sys
from pathlib import Path
from overread.records import Prepared
from overread.search.study import SearchSettings, run_search
from overread.testing.search import fast_timer, slow_worker
root = Path(sys.argv[1])
settings = SearchSettings.load(root / "given.json")
run_search(Prepared.load(root / "prepared.json"), root / "search", settings, worker=slow_worker, timer=fast_timer)
"""


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "data")


def search(prepared: Prepared, out: Path, settings: SearchSettings, worker: Worker) -> tuple[TrialOutcome, ...]:
    return run_search(prepared, out, settings, worker=worker, timer=fast_timer)


def cpus_come_back(cluster: Resources) -> bool:
    """Wait for the actors and groups of a search to end."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU", 0) == cluster.cpus:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.ray
def test_points_come_first_and_every_trial_leaves_its_outcome(
    cluster: Resources, prepared: Prepared, tmp_path: Path
) -> None:
    outcomes = search(prepared, tmp_path / "s", SETTINGS, fast_worker)
    assert [outcome.trial_id for outcome in outcomes] == [
        "0000-unet",
        "0001-unet_sharp",
        "0002-unetmer",
        "0003-unet",
    ]
    assert {outcome.state for outcome in outcomes} == {"finished"}
    assert outcomes[0].config.optimiser.learning_rate == 3e-3  # the bare baseline
    assert outcomes[0].config.options["width"] == 64
    assert [report.progress for report in outcomes[0].epochs] == [25, 50, 75, 100]
    assert cpus_come_back(cluster)

    with pytest.raises(UserError, match="must not hold a search, but it does"):
        search(prepared, tmp_path / "s", SETTINGS, fast_worker)
    with pytest.raises(UserError, match="seed changed"):
        search(prepared, tmp_path / "s", replace(SETTINGS, resume=True, seed=1), fast_worker)
    with pytest.raises(UserError, match="other data"):
        search(replace(prepared, content="x"), tmp_path / "s", replace(SETTINGS, resume=True), fast_worker)
    # a finished search resumes to itself, and to more when more is asked for
    more = search(prepared, tmp_path / "s", replace(SETTINGS, resume=True, trials=5), fast_worker)
    assert more[:4] == outcomes
    assert len(more) == 5


@pytest.mark.ray
def test_trials_of_one_and_of_two_workers_in_one_search(cluster: Resources, prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, workers_per_trial=(1, 2), trials=3)
    outcomes = search(prepared, tmp_path, settings, gradient_worker)
    assert [outcome.workers for outcome in outcomes] == [1, 2, 1]
    assert {outcome.state for outcome in outcomes} == {"finished"}
    folder = tmp_path / "trials" / outcomes[1].trial_id
    # rank 0 sees the input 1, rank 1 sees 2: both must have the mean
    assert read_json(folder / "gradient0.json") == read_json(folder / "gradient1.json") == [1.5, 1.5]
    assert cpus_come_back(cluster)


@pytest.mark.ray
def test_failures_end_their_trial_and_never_the_search(cluster: Resources, prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, architectures=("unet", "unetmer"), workers_per_trial=(2, 1), trials=2)
    outcomes = search(prepared, tmp_path, settings, failing_worker)
    assert [outcome.state for outcome in outcomes] == ["failed", "finished"]
    assert outcomes[0].reason == "nan_loss: the loss was NaN at step 3"
    assert cpus_come_back(cluster)


@pytest.mark.ray
def test_a_search_without_any_network_is_an_error(cluster: Resources, prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, space="unet", trials=2)
    with pytest.raises(UserError, match="none of 2 did: nan_loss"):
        search(prepared, tmp_path, settings, failing_worker)


@pytest.mark.ray
def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(
    cluster: Resources, prepared: Prepared, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, space="unet", trials=1)
    (outcome,) = search(prepared, tmp_path, settings, dying_worker)
    assert (outcome.state, [report.epoch for report in outcome.epochs]) == ("finished", [1, 2, 3, 4])
    assert (tmp_path / "trials" / "0000-unet" / "runs.txt").read_text() == "0\n3\n"


@pytest.mark.ray
def test_the_search_ends_in_its_time(cluster: Resources, prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, trials=None, time_budget_s=12.0, seconds_per_trial=6.0, epochs=1000)
    started = time.monotonic()
    outcomes = search(prepared, tmp_path, settings, fast_worker)
    assert time.monotonic() - started < 25
    assert {outcome.reason for outcome in outcomes} == {"end of the search's time"}


@pytest.mark.ray
def test_a_killed_search_resumes(prepared: Prepared, tmp_path: Path, cluster: Resources) -> None:
    settings = replace(SETTINGS, trials=6, time_budget_s=300.0, seconds_per_trial=20.0, early_stopping=False)
    settings.save(tmp_path / "given.json")
    prepared.save(tmp_path / "prepared.json")
    out = tmp_path / "search"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], start_new_session=True)
    try:
        _wait_for_half_done(out, driver)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    time.sleep(4)  # the workers of the private cluster end within 3 s of their driver
    before = {name: folder.joinpath("outcome.json").read_bytes() for name, (_, folder) in read_outcomes(out).items()}
    begun = {path.parent.name: path.read_bytes() for path in out.glob("trials/*/job.json")}
    assert 2 <= len(before) < 6
    left = set(begun) - set(before)

    outcomes = search(prepared, out, replace(settings, resume=True), slow_worker)
    assert [outcome.trial_id[:4] for outcome in outcomes] == [f"000{i}" for i in range(6)]
    assert {outcome.state for outcome in outcomes} == {"finished"}
    for name, content in before.items():
        assert (out / "trials" / name / "outcome.json").read_bytes() == content
    for name in left:  # started again where the checkpoint was, with every epoch once
        starts = (out / "trials" / name / "runs.txt").read_text().split()
        assert len(starts) <= 2
    resumed = [(out / "trials" / name / "runs.txt").read_text().split()[-1] for name in left]
    assert any(int(start) > 0 for start in resumed)
    assert all([report.epoch for report in outcome.epochs] == [1, 2, 3, 4] for outcome in outcomes)


def _wait_for_half_done(out: Path, driver: subprocess.Popen[bytes]) -> None:
    """Wait until two trials have ended and another has a checkpoint, too early to end before its worker does."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        ended = {path.parent for path in out.glob("trials/*/outcome.json")}
        states = out.glob("trials/*/checkpoint/state.json")
        saved = {path.parents[1] for path in states if read_json(path)["epoch"] <= 2}
        if len(ended) >= 2 and saved - ended:
            return
        time.sleep(0.05)
    raise AssertionError("the search must be running with two ended trials, but it is not")


class Recorder:
    """A tracker that remembers the names of its calls and fails in those of `broken`."""

    def __init__(self, **broken: Exception) -> None:
        self.calls: list[str] = []
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            self.calls.append(" ".join([name, *(a for a in arguments if isinstance(a, str))]))
            if name in self.broken:
                raise self.broken[name]

        return call


UNET = replace(SETTINGS, space="unet")
HERE = Resources(cpus=2, gpus=0.0, nodes=1, cpus_per_node=2)


def opened(prepared: Prepared, out: Path, settings: SearchSettings = UNET) -> Search:
    return open_search(prepared, out, settings, HERE, fast_timer)


def test_a_wrong_store_ends_a_fresh_search_only(prepared: Prepared, tmp_path: Path) -> None:
    search = opened(prepared, tmp_path / "s")
    tracker: Any = Recorder(search_run=UserError("the experiment must be active"))
    with pytest.raises(UserError, match="must be active"):
        begin_tracking(search, tracker, fresh=True)
    begin_tracking(search, tracker, fresh=False)
    assert tracker.calls == ["search_run", "search_run", "sync"]


def test_a_lost_server_never_ends_a_search(prepared: Prepared, tmp_path: Path) -> None:
    lost = ConnectionError("no server")
    tracker: Any = Recorder(search_run=lost, sync=lost, end_search=lost)
    begin_tracking(opened(prepared, tmp_path / "s"), tracker, fresh=True)
    end_tracking({}, tracker)
    assert tracker.calls == ["search_run", "sync", "end_search failed"]
    begin_tracking(opened(prepared, tmp_path / "t"), None, fresh=True)
    end_tracking({}, None)


def test_a_finished_search_resumes_without_a_training(
    monkeypatch: pytest.MonkeyPatch, prepared: Prepared, tmp_path: Path
) -> None:
    @contextmanager
    def nothing_started(num_cpus: int | None) -> Iterator[None]:
        yield

    monkeypatch.setattr(study, "session", nothing_started)
    monkeypatch.setattr(study, "available", lambda: HERE)
    monkeypatch.setattr(study, "_run_tune", lambda *arguments: pytest.fail("a trial would have been started"))
    settings = replace(SETTINGS, space="unet", trials=1)
    job = TrialJob.from_json(json.loads(make_searcher(opened(prepared, tmp_path, settings)).suggest("a")["job"]))
    ended = TrialOutcome(trial_id=job.trial_id, config=job.config, state="finished", weights="weights.safetensors")
    ended.save(job.path / "outcome.json")
    tracker: Any = Recorder()
    outcomes = run_search(prepared, tmp_path, replace(settings, resume=True), tracker, timer=fast_timer)
    assert outcomes == (ended,)
    assert tracker.calls == ["search_run", "sync", "sync", "end_search finished"]
