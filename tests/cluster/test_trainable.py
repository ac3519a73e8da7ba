import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overread.cluster.job import TrialJob, last_checkpoint
from overread.cluster.trainable import epoch_metrics, explain, fail, make_reporter, resources, summary
from overread.errors import TrialFailure
from overread.records import EpochReport, TrialOutcome, VariantScore
from overread.testing.tiny import tiny_config


def job(folder: Path, **fields: Any) -> TrialJob:
    return TrialJob(trial_id="0001-tiny", number=1, folder=str(folder), config=tiny_config(), **fields)


def config(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"job": json.dumps(job(folder, **fields).to_json())}


def report() -> EpochReport:
    return EpochReport(epoch=2, step=20, progress=50, seconds=1.5, metrics={"validation_dice": 0.75})


@pytest.mark.parametrize(
    ("fields", "bundle"),
    [
        ({"threads": 2}, {"CPU": 2.0}),
        ({"threads": 1, "gpus_per_worker": 0.5}, {"CPU": 1.0, "GPU": 0.5}),
        # the group reserves the CPUs of its workers: a trial that held one as well could block them for ever
        ({"threads": 2, "workers": 2}, {"memory": 1.0}),
        ({"threads": 1, "trainer": True}, {"memory": 1.0}),
    ],
)
def test_a_trial_reserves_what_its_own_process_uses(
    tmp_path: Path, fields: dict[str, Any], bundle: dict[str, float]
) -> None:
    assert resources(config(tmp_path, **fields)).bundles == [bundle]


def test_a_report_carries_its_record() -> None:
    metrics = epoch_metrics(report())
    assert (metrics["progress"], metrics["validation_dice"]) == (50, 0.75)
    assert EpochReport.from_json(json.loads(metrics["report"])) == report()


@pytest.mark.parametrize(("rank", "noted"), [(0, True), (1, False)])
def test_every_rank_sends_and_rank_0_notes_its_checkpoint(tmp_path: Path, rank: int, noted: bool) -> None:
    sent: list[dict[str, Any]] = []
    (tmp_path / "checkpoint").mkdir()
    make_reporter(job(tmp_path), rank, sent.append)(report(), tmp_path / "checkpoint")
    assert sent == [epoch_metrics(report())]
    assert (last_checkpoint(tmp_path) is not None) == noted


def test_the_reason_of_the_driver_is_kept(tmp_path: Path) -> None:
    stopped = TrialOutcome(trial_id="t", config=tiny_config(), state="stopped", reason="its time was up")
    assert explain(stopped, "too weak", tmp_path).reason == "too weak"
    assert job(tmp_path).outcome() == replace(stopped, reason="too weak")
    finished = replace(stopped, state="finished", reason="")
    assert explain(finished, "too weak", tmp_path) is finished


def test_an_error_becomes_a_failed_outcome_with_its_traceback(tmp_path: Path) -> None:
    assert fail(job(tmp_path), TrialFailure("nan_loss", "at step 3"), "trace").reason == "nan_loss: at step 3"
    assert fail(job(tmp_path / "b"), KeyError("x"), "the traceback").reason == "KeyError: 'x'"
    assert (tmp_path / "b" / "error.txt").read_text() == "the traceback"


def test_the_value_of_a_trial_is_that_of_its_main_variant() -> None:
    scores = tuple(
        VariantScore(variant=name, dice=dice, dice_per_class={}, cases=1, seconds_per_case=0.0)
        for name, dice in (("main", 0.6), ("level_1", 0.7))
    )
    outcome = TrialOutcome(trial_id="t", config=tiny_config(), state="finished", variants=scores)
    assert summary(outcome) == {"state": "finished", "validation_dice": 0.6}
    assert summary(replace(outcome, variants=(), state="failed"))["validation_dice"] == 0.0
