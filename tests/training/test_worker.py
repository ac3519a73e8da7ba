from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from overread.errors import TrialFailure, UserError
from overread.records import ALL_FOLDS, AugmentConfig, EpochReport, Prepared, TrialConfig, TrialOutcome
from overread.testing.tiny import tiny_config, tiny_prepared
from overread.training import loop, worker
from overread.training.worker import WorkerContext, train_trial


class KilledError(Exception):
    """Stands for the death of the process."""


class Reports:
    """A launcher that notes the reports and may die at one."""

    def __init__(self, die_at: int | None = None) -> None:
        self.epochs: list[int] = []
        self.saved: list[Path | None] = []
        self.die_at = die_at

    def __call__(self, report: EpochReport, saved: Path | None) -> None:
        self.epochs.append(report.epoch)
        self.saved.append(saved)
        if report.epoch == self.die_at:
            raise KilledError


def context_of(folder: Path, report: Any = None, **more: Any) -> WorkerContext:
    return WorkerContext(
        trial_id="trial", folder=folder, device=torch.device("cpu"), threads=1, report=report or Reports(), **more
    )


def without_times(outcome: TrialOutcome) -> dict[str, Any]:
    epochs = tuple(replace(report, seconds=0.0) for report in outcome.epochs)
    variants = tuple(replace(score, seconds_per_case=0.0) for score in outcome.variants)
    return replace(outcome, seconds=0.0, epochs=epochs, variants=variants).to_json()


CONFIG = tiny_config(
    options={"dropout": 0.3, "kernel": 3}, augment=AugmentConfig(), steps=13, epochs=4, architecture="tiny"
)
"""Everything random is switched on."""


def test_outcome_has_curve_variants_and_files(prepared: Prepared, tmp_path: Path) -> None:
    reports, config = Reports(), tiny_config(steps=60, epochs=4)
    outcome = train_trial(config, prepared, context_of(tmp_path, reports))
    assert outcome == TrialOutcome.load(tmp_path / "outcome.json")
    assert (outcome.state, outcome.reason, outcome.workers) == ("finished", "", 1)
    assert reports.epochs == [1, 2, 3, 4]
    assert reports.saved == [tmp_path / "checkpoint"] * 4
    assert [report.progress for report in outcome.epochs] == [25, 50, 75, 100]
    assert [score.variant for score in outcome.variants] == ["main", "sharp"]
    best = max(report.metrics["validation_dice"] for report in outcome.epochs)
    assert outcome.variants[0].dice == pytest.approx(best) == outcome.epochs[-1].metrics["best_validation_dice"]
    assert best > 0.85  # bright squares on weak noise are easy
    assert outcome.parameters == 4 + 4 + 8 + 10
    names = {"outcome.json", "progress.json", "weights.safetensors", "overlays.png", "checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} - {"prepared"} == names


@pytest.mark.parametrize("die_at", [1, 3, 4])
def test_resume_is_exact_bit_for_bit(prepared: Prepared, tmp_path: Path, die_at: int) -> None:
    straight = train_trial(CONFIG, prepared, context_of(tmp_path / "a"))
    with pytest.raises(KilledError):
        train_trial(CONFIG, prepared, context_of(tmp_path / "b", Reports(die_at)))
    torch.rand(7)  # another process would have another random state
    reports = Reports()
    resumed = train_trial(CONFIG, prepared, context_of(tmp_path / "b", reports, resume=tmp_path / "b" / "checkpoint"))
    assert without_times(resumed) == without_times(straight)
    assert reports.epochs == ([4] if die_at == 4 else list(range(die_at + 1, 5)))  # after the end: reported again
    for name in ("weights.safetensors", "checkpoint/checkpoint.pt"):
        first, second = (_tensors(tmp_path / folder / name) for folder in "ab")
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, weights_only=True)
    moments = {f"{i}/{k}": v for i, state in content["optimiser"]["state"].items() for k, v in state.items()}
    return content["model"] | moments


def test_kill_before_the_outcome_is_written(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(worker, "write_overlays", die)
        train_trial(CONFIG, prepared, context_of(tmp_path))
    assert not (tmp_path / "outcome.json").exists()
    outcome = train_trial(CONFIG, prepared, context_of(tmp_path, resume=tmp_path / "checkpoint"))
    assert (outcome.state, len(outcome.epochs)) == ("finished", 4)


def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first validation be the best."""
    inner, dice = loop.score_variant, iter([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(loop, "score_variant", lambda *a, **o: replace(inner(*a, **o), dice=next(dice)))


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 4)])
def test_the_weights_of_the_asked_epoch_are_kept(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, epoch: int
) -> None:
    falling(monkeypatch)
    heads: list[torch.Tensor] = []

    def report(epoch: EpochReport, saved: Path | None) -> None:
        heads.append(_tensors(tmp_path / "checkpoint" / "checkpoint.pt")["head.weight"])

    outcome = train_trial(replace(CONFIG, keep=keep), prepared, context_of(tmp_path, report))
    assert torch.equal(load_file(tmp_path / "weights.safetensors")["head.weight"], heads[epoch - 1])
    assert not torch.equal(heads[0], heads[3])
    assert TrialOutcome.load(tmp_path / "progress.json").variants[0].dice == {1: 0.9, 4: 0.6}[epoch]
    assert outcome.epochs[-1].metrics["best_validation_dice"] == 0.9


def test_lost_weights_are_replaced_on_resume(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train_trial(CONFIG, prepared, context_of(tmp_path, Reports(die_at=3)))
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "kept")
    context = context_of(tmp_path / "other", resume=tmp_path / "kept")  # a node without the trial's folder
    outcome = train_trial(CONFIG, prepared, context)
    assert (tmp_path / "other" / "weights.safetensors").is_file()
    assert outcome.state == "finished"


def test_checkpoint_of_another_config_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    train_trial(CONFIG, prepared, context_of(tmp_path))
    with pytest.raises(UserError, match="own config"):
        train_trial(replace(CONFIG, seed=9), prepared, context_of(tmp_path, resume=tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("fail", "kind"),
    [("nan", "nan_loss"), ("cuda", "out_of_memory"), ("cpu", "out_of_memory"), ("memory", "out_of_memory")],
)
def test_known_failures_end_the_trial_with_their_reason(
    prepared: Prepared, tmp_path: Path, fail: str, kind: str
) -> None:
    with pytest.raises(TrialFailure) as caught:
        train_trial(tiny_config(options={"fail": fail}), prepared, context_of(tmp_path))
    assert caught.value.kind == kind
    outcome = TrialOutcome.load(tmp_path / "outcome.json")
    assert outcome.state == "failed"
    assert outcome.reason.startswith(kind)
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_bug_is_not_taken_for_a_failure(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train_trial(tiny_config(options={"fail": "bug"}), prepared, context_of(tmp_path))
    assert not (tmp_path / "outcome.json").exists()


def test_seconds_become_steps_that_are_recorded(prepared: Prepared, tmp_path: Path) -> None:
    config = tiny_config(steps=None, train_seconds=0.3, epochs=2, mixed_precision=True)
    outcome = train_trial(config, prepared, context_of(tmp_path))
    assert outcome.config.steps is not None
    assert outcome.config.steps > 1
    assert outcome.config.train_seconds is None
    assert outcome.epochs[-1].step == outcome.config.steps
    assert outcome.seconds < 3.0


def after(calls: int) -> Callable[[], bool]:
    left = iter([False] * calls)
    return lambda: next(left, True)


def test_deadline_at_an_epoch_stops_with_an_outcome(prepared: Prepared, tmp_path: Path) -> None:
    # asked at the end of the training and after the validation of each epoch
    reports = Reports()
    outcome = train_trial(CONFIG, prepared, context_of(tmp_path, reports, should_stop=after(3)))
    assert (outcome.state, outcome.reason) == ("stopped", "its time was up")
    assert reports.epochs == [1, 2]
    assert [score.variant for score in outcome.variants] == ["main", "sharp"]
    resumed = train_trial(CONFIG, prepared, context_of(tmp_path, resume=tmp_path / "checkpoint"))
    assert (resumed.state, len(resumed.epochs)) == ("finished", 4)


def test_deadline_within_an_epoch_falls_back_on_the_last_one(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    reports, config = Reports(), tiny_config(steps=12, epochs=3)
    outcome = train_trial(config, prepared, context_of(tmp_path, reports, should_stop=after(6)))
    assert (outcome.state, len(outcome.epochs)) == ("stopped", 1)
    assert reports.epochs == [1]


def test_progress_file_is_an_outcome_for_a_trial_that_is_stopped_from_outside(
    prepared: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train_trial(CONFIG, prepared, context_of(tmp_path, Reports(die_at=2)))
    outcome = TrialOutcome.load(tmp_path / "progress.json")
    assert (outcome.state, len(outcome.epochs)) == ("stopped", 2)
    assert outcome.variants[0].dice == max(report.metrics["validation_dice"] for report in outcome.epochs)


def test_config_for_other_data_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 channels and 2 classes"):
        train_trial(tiny_config(classes=3), prepared, context_of(tmp_path))


def test_volumes_train_on_patches(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "p", cases=6, shape=(6, 12, 12), volumes=True)
    config = tiny_config(spatial_dims=3, patch_size=(4, 8, 8), steps=40, batch_size=2, epochs=1)
    started = time.perf_counter()
    outcome = train_trial(config, prepared, context_of(tmp_path / "t"))
    assert outcome.variants[0].dice > 0.8
    assert time.perf_counter() - started < 20


def test_threads_are_set_and_the_random_state_of_the_caller_stays(prepared: Prepared, tmp_path: Path) -> None:
    config: TrialConfig = tiny_config(steps=2, epochs=1)
    before = torch.get_rng_state()
    train_trial(config, prepared, replace(context_of(tmp_path), threads=2))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_data_lack_is_told(prepared: Prepared) -> None:
    with pytest.raises(UserError, match="3-D training must have volumes, but data set 'tiny' holds images"):
        worker.check_fits(tiny_config(spatial_dims=3, patch_size=(8, 8, 8)), prepared)
    with pytest.raises(UserError, match=r"at least half as large as the multiple of 32 .*, but the longest side is 8"):
        worker.check_fits(tiny_config(options={"size_multiple": 32}), prepared)
    worker.check_fits(tiny_config(options={"size_multiple": 16}), prepared)
    with pytest.raises(UserError, match="must have the data's 1 channels"):
        worker.check_fits(tiny_config(in_channels=2), prepared)
    maps = tiny_config(architecture="dai_net", options={"width": 1}, patch_size=(16, 16))
    with pytest.raises(UserError, match=r"dai_net must have .* one patch, 16 pixels, .* 10 of 10 .*case0: \(8, 8\)"):
        worker.check_fits(maps, prepared)
    small_patches = {"vit": {"size": "tiny", "patch": 8, "depth": 1}, "image_size": 8}
    worker.check_fits(replace(maps, options=maps.options | {"attention": small_patches}), prepared)


def test_all_folds_train_without_validation_and_the_last_weights_stay(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "data")
    reports = Reports()
    outcome = train_trial(tiny_config(fold=ALL_FOLDS), prepared, context_of(tmp_path / "t", reports))
    assert (outcome.state, outcome.variants) == ("finished", ())
    assert reports.epochs == [1, 2, 3]
    assert not any("dice" in name for report in outcome.epochs for name in report.metrics)
    kept = load_file(tmp_path / "t" / "weights.safetensors")
    last = torch.load(next((tmp_path / "t" / "checkpoint").iterdir()), weights_only=True)["model"]
    assert all(torch.equal(kept[name], last[name]) for name in kept)
