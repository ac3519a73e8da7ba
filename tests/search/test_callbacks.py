import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from overread.cluster.job import TrialJob
from overread.cluster.trainable import epoch_metrics
from overread.records import EpochReport, TrialOutcome
from overread.search.callbacks import TrialCallback
from overread.search.clock import SearchClock
from overread.testing.tiny import tiny_config


class Recorder:
    """A tracker that remembers its calls; `broken` makes every call fail, as a lost server does."""

    def __init__(self, broken: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            if self.broken:
                raise ConnectionError("no server")
            self.calls.append((name, *arguments))

        return call


def follow(folder: Path, tracker: Any) -> list[str]:
    """Let one trial start, report and end without an outcome; return the lines for the user."""
    lines: list[str] = []
    clock = SearchClock(path=folder / "clock.json", budget=None)
    callback = TrialCallback(clock, tracker, lines.append)
    job = TrialJob(trial_id="t", number=0, folder=str(folder / "t"), config=tiny_config())
    trial: Any = SimpleNamespace(config={"job": json.dumps(job.to_json())})
    report = EpochReport(epoch=1, step=4, progress=33, seconds=1.0, metrics={"validation_dice": 0.5})
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(1, [], trial, epoch_metrics(report))
    callback.on_trial_result(1, [], trial, {"state": "failed", "validation_dice": 0.0})
    callback.on_trial_error(1, [], trial)
    pickle.dumps(callback)
    return lines


def test_a_trial_is_tracked_from_start_to_end(tmp_path: Path) -> None:
    tracker = Recorder()
    lines = follow(tmp_path, tracker)
    assert [call[0] for call in tracker.calls] == ["start_trial", "log_epoch", "finish_trial"]
    assert tracker.calls[1][2].progress == 33
    assert tracker.calls[2][2] == TrialOutcome.load(tmp_path / "t" / "outcome.json")
    assert lines == ["trial t: failed, no result, 0 s (the process of the trial died)"]
    assert (tmp_path / "clock.json").exists()


def test_a_lost_tracking_server_does_not_end_the_search(tmp_path: Path) -> None:
    assert len(follow(tmp_path, Recorder(broken=True))) == 1
