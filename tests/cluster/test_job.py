from pathlib import Path

from overread.cluster.job import (
    SEARCH_ENDED,
    StopSignal,
    TrialJob,
    failed_outcome,
    last_checkpoint,
    remember_checkpoint,
    request_stop,
)
from overread.testing.tiny import tiny_config


def job(folder: Path, deadline: float | None = None) -> TrialJob:
    return TrialJob(trial_id="0001-tiny", number=1, folder=str(folder), config=tiny_config(), deadline=deadline)


def test_the_deadline_stops(tmp_path: Path) -> None:
    now = 99.0
    signal = StopSignal(job=job(tmp_path, deadline=100.0), clock=lambda: now)
    assert not signal()
    now = 100.0
    assert signal()
    assert signal.reason == SEARCH_ENDED


def test_a_request_stops_and_the_file_is_looked_at_now_and_then(tmp_path: Path) -> None:
    now = 10.0
    signal = StopSignal(job=job(tmp_path), clock=lambda: now, interval=1.0)
    assert not signal()
    request_stop(tmp_path, "too weak")
    now = 10.9
    assert not signal()
    now = 11.0
    assert signal()
    assert signal.reason == "too weak"
    (tmp_path / "stop.json").unlink()
    assert signal()


def test_a_checkpoint_inside_the_folder_moves_with_it(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "old" / "checkpoint").mkdir(parents=True)
    remember_checkpoint(tmp_path / "old", tmp_path / "old" / "checkpoint")
    (tmp_path / "old").rename(tmp_path / "new")
    assert last_checkpoint(tmp_path / "new") == tmp_path / "new" / "checkpoint"


def test_a_checkpoint_that_is_gone_is_a_fresh_start(tmp_path: Path) -> None:
    remember_checkpoint(tmp_path, tmp_path / "checkpoint")
    assert last_checkpoint(tmp_path) is None


def test_a_failed_outcome_is_the_outcome_of_its_job(tmp_path: Path) -> None:
    assert job(tmp_path).outcome() is None
    outcome = failed_outcome(job(tmp_path), "nan_loss: at step 3")
    assert job(tmp_path).outcome() == outcome
    assert (outcome.state, outcome.trial_id, outcome.weights) == ("failed", "0001-tiny", None)
