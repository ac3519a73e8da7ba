"""Trials valued by what they add: measured where they were trained, members named by the driver."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from overread.architectures import build_segmenter
from overread.cluster.contribution import READINGS, RenewedGains, current_members, measure_contribution, renewed_gains
from overread.cluster.job import TrialJob
from overread.ensemble.gain import GAIN, Gain
from overread.jsonio import write_json
from overread.records import TrialOutcome, VariantScore
from overread.search.objective import TrialValue
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.training.checkpoint import save_weights


def job_of(out: Path, trial_id: str, by_gain: bool = True, number: int = 0, deadline: float | None = None) -> TrialJob:
    folder = out / "trials" / trial_id
    folder.mkdir(parents=True, exist_ok=True)
    return TrialJob(
        trial_id=trial_id, number=number, folder=str(folder), config=tiny_config(), by_gain=by_gain, deadline=deadline
    )


def outcome(trial_id: str, state: Any = "finished") -> TrialOutcome:
    score = VariantScore(variant="main", dice=0.7, dice_per_class={}, cases=1, seconds_per_case=0.0)
    return TrialOutcome(
        trial_id=trial_id, config=tiny_config(), state=state, variants=(score,), weights="weights.safetensors"
    )


def gain(members: tuple[str, ...], value: float) -> Gain:
    return Gain(members=members, dice=0.8, gain=value, error=0.0, aurc=0.1, aurc_gain=0.5)


def test_dice_is_the_value_unless_gain_is_asked_for(tmp_path: Path) -> None:
    job = job_of(tmp_path, "a")
    assert TrialValue(tmp_path)(job, outcome("a")) == 0.7
    by_gain = TrialValue(tmp_path, "gain")
    assert by_gain.waits(job, outcome("a")) and by_gain(job, outcome("a")) is None
    assert not by_gain.waits(job, outcome("a", "stopped")) and not TrialValue(tmp_path).waits(job, outcome("a"))


def test_members_join_in_the_order_in_which_they_were_measured(tmp_path: Path) -> None:
    value = TrialValue(tmp_path, "gain")
    told = {"a": gain((), 0.0), "b": gain(("a",), 0.1), "c": gain(("a",), 0.2), "d": gain(("a", "b"), -0.1)}
    found = {}
    for trial_id, own in told.items():
        job = job_of(tmp_path, trial_id)
        own.save(job.path / GAIN)
        found[trial_id] = value(job, outcome(trial_id))
        assert not value.waits(job, outcome(trial_id))
    assert found == {"a": 0.0, "b": 0.1, "c": 0.2, "d": -0.1}
    assert current_members(tmp_path) == ("a", "b")  # c was measured without b, d takes away
    assert value(job_of(tmp_path, "b"), outcome("b")) == 0.1 and current_members(tmp_path) == ("a", "b")
    assert TrialValue(tmp_path, "gain_and_failure")(job_of(tmp_path, "d"), outcome("d")) == pytest.approx(0.4)


def test_values_of_today_are_the_gains_that_were_measured_last(tmp_path: Path) -> None:
    value = TrialValue(tmp_path, "gain_and_failure")
    assert value.renewed() == {}
    for number, trial_id in enumerate("ab"):
        job = job_of(tmp_path, trial_id, number=number)
        gain((), 0.3).save(job.path / GAIN)
        value(job, outcome(trial_id))
    RenewedGains(members=("a",), gains={"b": gain(("a",), 0.1), "other": gain(("a",), 0.2)}).save(
        tmp_path / "gains.json"
    )
    assert value.renewed() == {1: pytest.approx(0.6)}  # a Dice gain of 0.1 and 0.5 of AURC; nobody knows the other


@pytest.fixture
def tiny() -> Iterator[None]:
    with tiny_architecture():
        yield


def test_a_trial_measures_itself_once(tiny: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared = tiny_prepared(tmp_path / "data", cases=6)
    value = TrialValue(tmp_path, "gain")
    for seed, trial_id in enumerate("abc"):
        job = job_of(tmp_path, trial_id)
        torch.manual_seed(seed)
        save_weights(job.path / "weights.safetensors", build_segmenter(tiny_config()))
        torch.set_num_threads(2)
        measure_contribution(job, prepared, outcome(trial_id))
        assert torch.get_num_threads() == job.threads == 1
        value(job, outcome(trial_id))
        if trial_id == "a":  # members are named by the driver; here it is as if b had joined whatever it adds
            assert renewed_gains(tmp_path).gains == {}
        elif trial_id == "b":
            assert set(renewed_gains(tmp_path).gains) == {"a", "b"}
            write_json(tmp_path / "ensemble.json", {"members": ["a", "b"]})
    # c found another ensemble than b: all are measured anew, members against each other
    renewed = renewed_gains(tmp_path)
    assert renewed.members == ("a", "b")
    assert {name: own.members for name, own in renewed.gains.items()} == {"a": ("b",), "b": ("a",), "c": ("a", "b")}
    assert renewed.gains["c"] == Gain.load(tmp_path / "trials" / "c" / GAIN)
    write_json(tmp_path / "ensemble.json", {"members": ["a", "b", "c"]})
    late = job_of(tmp_path, "z", deadline=1.0)  # the time of the search is over: nobody asks for another trial
    save_weights(late.path / "weights.safetensors", build_segmenter(tiny_config()))
    measure_contribution(late, prepared, outcome("z"))
    assert Gain.load(late.path / GAIN).members == ("a", "b", "c") and renewed_gains(tmp_path) == renewed
    first, second = (Gain.load(tmp_path / "trials" / t / GAIN) for t in "ab")
    assert first.members == () and second.members == ("a",)
    written = (tmp_path / "trials" / "b" / READINGS).stat().st_mtime_ns
    measure_contribution(job_of(tmp_path, "b"), prepared, outcome("b"))
    assert (tmp_path / "trials" / "b" / READINGS).stat().st_mtime_ns == written
    for broken, asked in (("d", True), ("e", False)):
        with caplog.at_level(logging.WARNING):
            measure_contribution(job_of(tmp_path, broken, asked), prepared, outcome(broken))
        assert not (tmp_path / "trials" / broken / GAIN).exists()
    assert [r.message.split(":")[0] for r in caplog.records] == ["trial d has no gain"]
