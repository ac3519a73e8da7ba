from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from overread.errors import TrialFailure
from overread.records import OptimiserConfig, Prepared
from overread.testing.tiny import tiny_config
from overread.training import loop
from overread.training.checkpoint import Progress
from overread.training.loop import Run, epoch_end, keep_pace, train_epoch, validate
from overread.training.step import Precision
from overread.training.worker import WorkerContext, start


def run_of(prepared: Prepared, folder: Path, should_stop: Callable[[], bool] = lambda: False, **changes: object) -> Run:
    context = WorkerContext(trial_id="t", folder=folder, device=torch.device("cpu"), threads=1, should_stop=should_stop)
    return start(tiny_config(**changes), prepared, context)


def test_epochs_share_the_steps_evenly_and_use_all() -> None:
    progress, ends = Progress(tiny_config(steps=10), Precision()), []
    for progress.epoch in range(3):
        progress.step = epoch_end(progress, 3)
        ends.append(progress.step)
    assert ends == [3, 6, 10]


def test_a_training_that_stops_early_keeps_the_schedule_of_all_steps(prepared: Prepared, tmp_path: Path) -> None:
    run = run_of(prepared, tmp_path, steps=8, stop_step=4, epochs=2, optimiser=OptimiserConfig(schedule="poly"))
    rates = []
    while not run.finished:
        losses = train_epoch(run)
        assert losses is not None
        rates.append(losses["learning_rate"] / run.config.optimiser.learning_rate)
    assert (run.progress.step, run.progress.epoch) == (4, 2)
    assert rates == pytest.approx([(1 - 1 / 8) ** 0.9, (1 - 3 / 8) ** 0.9])  # of the steps 1 and 3, of 8


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [
        (30.0, 40),  # 10 steps in 30 s: 90 s are left for 30 more
        (12.5, 100),  # 100 steps in 125 s are within the tolerance of 120 s
        (6.0, 200),  # twice as fast as thought: 114 s for 190 more
        (150.0, 19),  # no time is left: one step for each of the nine epochs to come
    ],
)
def test_steps_follow_the_pace(prepared: Prepared, tmp_path: Path, seconds: float, steps: int) -> None:
    run = run_of(prepared, tmp_path, steps=100, epochs=10)
    progress = run.progress
    progress.step, progress.epoch, progress.seconds, progress.budget_seconds = 10, 1, seconds, 120.0
    keep_pace(run)
    assert run.steps == run.config.steps == steps
    progress.epoch, progress.seconds = 6, 1e4  # in the second half the schedule stays
    keep_pace(run)
    assert run.steps == steps


def test_given_steps_are_kept_at_any_pace(prepared: Prepared, tmp_path: Path) -> None:
    run = run_of(prepared, tmp_path, steps=100, epochs=10)
    run.progress.step, run.progress.epoch, run.progress.seconds = 10, 1, 1e4
    keep_pace(run)
    assert run.steps == 100


def test_an_epoch_trains_and_reports_its_means(prepared: Prepared, tmp_path: Path) -> None:
    run = run_of(prepared, tmp_path, steps=6)
    before = [p.detach().clone() for p in run.segmenter.parameters()]
    losses = train_epoch(run)
    assert losses is not None
    assert losses["train_loss"] == pytest.approx(losses["loss_ce"])
    assert set(losses) == {"train_loss", "loss_ce", "learning_rate"}
    assert all(not torch.equal(a, b) for a, b in zip(before, run.segmenter.parameters(), strict=True))
    report, score = validate(run, losses)
    assert (report.epoch, report.step, report.progress) == (1, 2, 33)
    assert report.metrics["validation_dice"] == score.dice == report.metrics["best_validation_dice"]
    assert report.metrics["dice_square"] == score.dice_per_class["square"]
    assert report.seconds > 0
    assert set(score.case_dice) == {"case0", "case1", "case2"}  # all of the validation fold, nothing else


def test_more_epochs_than_steps_are_cut_to_the_steps(prepared: Prepared, tmp_path: Path) -> None:
    run = run_of(prepared, tmp_path, steps=2, epochs=10)
    assert run.epochs == 2
    train_epoch(run)
    assert not run.finished
    train_epoch(run)
    assert run.finished


def test_patience_counts_epochs_since_the_best(prepared: Prepared, tmp_path: Path) -> None:
    run = run_of(prepared, tmp_path, patience=2, steps=100, epochs=100)
    run.progress.best_epoch = 3
    finished = []
    for run.progress.epoch in (3, 4, 5):
        finished.append(run.finished)
    assert finished == [False, False, True]


def test_nan_loss_ends_the_epoch(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(TrialFailure) as caught:
        train_epoch(run_of(prepared, tmp_path, options={"fail": "nan"}))
    assert caught.value.kind == "nan_loss"


def test_nan_is_found_soon_in_a_long_epoch(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 3)
    with pytest.raises(TrialFailure, match="by step 3"):
        train_epoch(run_of(prepared, tmp_path, options={"fail": "nan"}, steps=1000, epochs=1))


def test_time_up_cuts_the_first_epoch_and_drops_a_later_one(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    run = run_of(prepared, tmp_path, lambda: True, steps=20, epochs=2)
    assert train_epoch(run) is not None
    assert (run.progress.epoch, run.progress.step) == (1, 2)
    assert train_epoch(run) is None
    assert (run.progress.epoch, run.progress.step) == (1, 2)
