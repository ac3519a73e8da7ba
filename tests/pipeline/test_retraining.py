"""Winners trained again as a deep ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overread.cluster.job import TrialJob
from overread.cluster.session import session
from overread.data.prepare import serial_map
from overread.ensemble.package import load_package
from overread.errors import UserError
from overread.jsonio import read_json
from overread.pipeline import retraining
from overread.pipeline.calibrating import calibrate
from overread.pipeline.folders import RunFolder
from overread.pipeline.retraining import kept_epoch, retrain, retrained_config, train_jobs
from overread.pipeline.stages import Run, assemble, open_run, read_locked
from overread.records import ALL_FOLDS, Prepared, Winners
from overread.search.leaderboard import read_outcomes


def test_steps_are_those_of_the_kept_weights_for_more_cases(two_networks: Run, squares_prepared: Prepared) -> None:
    outcome, _ = read_outcomes(two_networks.folder.search)["t0"]
    assert kept_epoch(outcome).epoch == 2  # the first of the two best
    assert kept_epoch(replace(outcome, config=replace(outcome.config, keep="last"))).epoch == 3
    folds = [len(fold) for fold in squares_prepared.splits.folds]
    first, second = (retrained_config(outcome, squares_prepared, seed) for seed in (1, 2))
    # 4 steps on the cases of the other fold are as many passes as these on the cases of both
    assert first.steps == round(4 * sum(folds) / folds[1])
    assert (first.epochs, first.keep, first.fold, first.baseline) == (2, "last", ALL_FOLDS, False)
    assert len({outcome.config.seed, first.seed, second.seed}) == 3
    fold = squares_prepared.splits.fold(ALL_FOLDS)
    held_back = {*squares_prepared.splits.locked, *squares_prepared.splits.calibration}
    assert sorted((*fold.train, *held_back)) == [case.id for case in squares_prepared.cases]
    assert fold.validation == ()


def test_a_trial_without_epochs_cannot_be_retrained(two_networks: Run) -> None:
    outcome, _ = read_outcomes(two_networks.folder.search)["t0"]
    with pytest.raises(UserError, match="trial t0 must have epochs"):
        kept_epoch(replace(outcome, epochs=()))


def test_a_training_of_another_config_starts_anew(
    two_networks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, _ = read_outcomes(two_networks.folder.search)["t0"]
    config = retrained_config(outcome, two_networks.prepared, 1)
    jobs = [TrialJob(trial_id=name, number=0, folder=str(tmp_path / name), config=config) for name in ("same", "other")]
    earlier = [jobs[0], replace(jobs[1], config=replace(config, steps=1))]
    for job in earlier:
        job.save(job.path / "job.json")
        (job.path / "checkpoint").mkdir()
    started: dict[str, bool] = {}

    def train(waiting: list[TrialJob], *_: object, **__: object) -> None:
        for job in waiting:
            started[job.trial_id] = (job.path / "checkpoint").exists()
            replace(outcome, trial_id=job.trial_id, config=job.config).save(job.path / "outcome.json")

    monkeypatch.setattr(retraining, "train_all", train)
    finished, failed = train_jobs(jobs, two_networks.prepared, tmp_path / "tune")
    assert started == {"same": True, "other": False}
    assert (list(finished), failed) == (["same", "other"], {})
    assert [TrialJob.load(job.path / "job.json") for job in jobs] == jobs
    started.clear()
    train_jobs(jobs, two_networks.prepared, tmp_path / "tune")  # both have ended
    assert started == {}


@pytest.fixture
def cluster() -> Iterator[None]:
    with session(address="local", num_cpus=2):
        yield


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_winners_become_a_calibrated_package_of_new_seeds(
    two_networks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "deep"
    with pytest.raises(UserError, match=r"winners\.json must exist"):
        retrain(two_networks.folder.root, out, serial_map, seeds=2)
    assemble(two_networks, top=2)
    fitted = calibrate(two_networks, serial_map, coverage=0.5)
    assert fitted is not None
    winners, judgement = retrain(two_networks.folder.root, out, serial_map, seeds=2, coverage=0.5)
    assert [member.name for member in winners.members] == [
        "unet-t0-seed1", "unet-t1-seed1", "unet-t0-seed2", "unet-t1-seed2",
    ]  # fmt: skip
    assert len({member.sha256 for member in winners.members}) == 4
    assert [member.validation_dice for member in winners.members] == [0.5] * 4
    assert Winners.load(out / "winners.json") == winners
    outcomes = read_outcomes(out / "search")
    assert {trial: (o.state, o.variants) for trial, (o, _) in outcomes.items()} == {
        member.trial_id: ("finished", ()) for member in winners.members
    }
    # the regressors are those of the winners, the bounds are fitted on what the new networks read
    package = load_package(out / "ensemble")
    assert judgement is not None and package.judgement == judgement
    assert {t: j.regressor for t, j in judgement.targets.items()} == {
        t: j.regressor for t, j in fitted.targets.items()
    }  # fmt: skip
    read = {row["confidence"]["case"]: row for row in read_json(out / "calibration" / "calibration" / "results.json")}
    assert set(read) == set(two_networks.prepared.splits.calibration)
    assert all(row["confidence"]["n_readings"] == 4 for row in read.values())
    run = open_run(RunFolder(out), serial_map)
    assert len(read_locked(run, serial_map)) == len(run.prepared.splits.locked)
    # again: nothing is trained anew, and the members are the same
    again, _ = retrain(two_networks.folder.root, out, serial_map, seeds=2, coverage=0.5, resume=True)
    assert again == winners
    assert load_package(out / "ensemble").judgement == judgement
    with pytest.raises(UserError, match=r"must stay at coverage 0\.5"):
        retrain(two_networks.folder.root, out, serial_map, seeds=2, coverage=0.6, resume=True)
    with pytest.raises(UserError, match="is itself retrained"):
        retrain(out, tmp_path / "deeper", serial_map, seeds=1)
