import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from overread.cluster.job import StopSignal, TrialJob
from overread.search.scheduler import FairScheduler
from overread.search.stopping import FairStopping
from overread.testing.tiny import tiny_config


def run(folder: Path, enabled: bool, values: dict[str, float]) -> dict[str, str]:
    """Let every trial report a value at half of its steps; return the reasons to stop."""
    policy = FairStopping(rungs=(50,), min_records=1)
    scheduler = FairScheduler(policy, enabled)
    reasons = {}
    for number, (name, value) in enumerate(values.items()):
        policy.start(name, "tiny")
        job = TrialJob(trial_id=name, number=number, folder=str(folder / name), config=tiny_config())
        trial: Any = SimpleNamespace(config={"job": json.dumps(job.to_json())})
        for result in ({"report": "{}", "progress": 50, "validation_dice": value}, {"validation_dice": 0.0}):
            assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
        signal = StopSignal(job=job)
        signal()
        reasons[name] = signal.reason
    return reasons


def test_a_weak_trial_is_asked_to_stop_and_not_killed(tmp_path: Path) -> None:
    reasons = run(tmp_path, True, {"first": 0.8, "weak": 0.7, "good": 0.9})
    assert reasons["weak"].startswith("early stopping: Dice 0.700 after 50 %")
    assert (reasons["first"], reasons["good"]) == ("", "")


def test_without_early_stopping_none_is_asked(tmp_path: Path) -> None:
    assert set(run(tmp_path, False, {"first": 0.8, "weak": 0.7}).values()) == {""}
