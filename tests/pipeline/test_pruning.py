import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overread.ensemble.package import load_package, write_package
from overread.ensemble.selection import file_sha256
from overread.errors import UserError
from overread.pipeline import pruning
from overread.pipeline.pruning import PruneSettings, check, prune, run_of
from overread.records import MAIN, Member, Prepared, TrialConfig, TrialOutcome, Winners
from overread.testing.tiny import tiny_prepared
from overread.training.evaluate import predict_case
from overread.training.inference import load_segmenter
from overread.training.worker import WorkerContext, train_trial

OPTIONS = {"width": 4, "level": 2, "deep_supervision": True, "inference": "deepest"}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared, TrialConfig]:
    root = tmp_path_factory.mktemp("prune")
    prepared = tiny_prepared(root / "data")
    config = TrialConfig(
        architecture="unet_sharp", options=OPTIONS, in_channels=1, classes=2, patch_size=(8, 8), steps=30, epochs=1
    )
    folder = root / "trial"
    train_trial(config, prepared, WorkerContext(trial_id="t", folder=folder, device=torch.device("cpu"), threads=1))
    return folder, prepared, config


def test_the_kept_level_is_a_smaller_trial_that_reads_as_before(trial, tmp_path: Path):
    folder, prepared, config = trial
    result = prune(PruneSettings(trial=folder, out=tmp_path / "small", level=1), prepared)
    assert [score.cost.level for score in result.scores] == [1, 2]
    outcome = TrialOutcome.load(tmp_path / "small" / "outcome.json")
    assert outcome.config.options["level"] == 1
    assert outcome.parameters < TrialOutcome.load(folder / "outcome.json").parameters
    assert outcome.variants[0].dice == result.scores[0].dice
    small = load_segmenter(outcome.config, tmp_path / "small" / "weights.safetensors", "cpu")
    assert not [name for name in small.state_dict() if "x02" in name or "x11" in name or "blocks.2" in name]
    large = load_segmenter(config, folder / "weights.safetensors", "cpu")
    case = prepared.splits.folds[0][0]
    before = predict_case(large, prepared, case, config, large.variant("level_1"), "cpu")
    assert (predict_case(small, prepared, case, outcome.config, None, "cpu") == before).all()
    assert {p.name for p in (tmp_path / "small").iterdir()} == {
        "levels.csv", "levels.md", "levels.png", "weights.safetensors", "outcome.json"
    }  # fmt: skip
    assert "L1*" in (tmp_path / "small" / "levels.md").read_text()


def test_a_packaged_level_is_stored_alone(trial, tmp_path: Path):
    folder, prepared, config = trial
    weights = folder / "weights.safetensors"
    member = Member(
        name="sharp-level_1",
        trial_id="t",
        architecture="unet_sharp",
        variant="level_1",
        config=config,
        weights=str(weights),
        sha256=file_sha256(weights),
        validation_dice=0.5,
    )
    winners = Winners(rule="by hand", members=(member,), prepared=prepared.content)
    write_package(tmp_path / "package", winners, {member.name: weights}, prepared, name="tiny", versions={})
    package = load_package(tmp_path / "package")
    (stored,) = package.manifest.members
    assert (stored.variant, stored.config.options["level"], stored.name) == (MAIN, 1, member.name)
    assert (tmp_path / "package" / stored.weights).stat().st_size < weights.stat().st_size
    large = load_segmenter(config, weights, "cpu")
    case = prepared.splits.folds[0][0]
    before = predict_case(large, prepared, case, config, large.variant("level_1"), "cpu")
    assert (predict_case(package.segmenter(stored), prepared, case, stored.config, None, "cpu") == before).all()


def test_what_cannot_be_pruned_is_told_before_any_data_is_read(trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _, _ = trial
    with pytest.raises(UserError, match=r"one of those trained \(1, 2\), but got 4"):
        check(PruneSettings(trial=folder, out=tmp_path / "small", level=4))
    with pytest.raises(UserError, match="must not exist yet"):
        check(PruneSettings(trial=folder, out=folder))
    with pytest.raises(UserError, match=r"folder of a trial with outcome\.json"):
        check(PruneSettings(trial=tmp_path, out=tmp_path / "small"))
    with pytest.raises(UserError, match="tolerance must be at least 0"):
        check(PruneSettings(trial=folder, out=tmp_path / "small", tolerance=-0.1))
    with pytest.raises(UserError, match="must not exist yet"):
        check(PruneSettings(trial=folder, out=folder / "outcome.json"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check(PruneSettings(trial=folder, out=tmp_path / "small"))
    with pytest.raises(UserError, match=r"overread\[onnx\]"):
        check(PruneSettings(trial=folder, out=tmp_path / "small", onnx=True))
    outcome = TrialOutcome.load(folder / "outcome.json")
    replace(outcome, weights=None, state="failed").save(tmp_path / "failed" / "outcome.json")
    with pytest.raises(UserError, match="must have weights, but its state is failed"):
        check(PruneSettings(trial=tmp_path / "failed", out=tmp_path / "small"))
    assert run_of(folder) is None


def test_data_split_otherwise_than_for_the_trial_are_refused(trial, tmp_path: Path):
    folder, prepared, _ = trial
    first, second = prepared.splits.folds
    moved = replace(prepared, splits=replace(prepared.splits, folds=((*first[1:], second[0]), (first[0], *second[1:]))))
    with pytest.raises(UserError, match="of its 3 validation cases and the 3 of fold 0 only 2 are the same"):
        prune(PruneSettings(trial=folder, out=tmp_path / "small"), moved)
    fewer = replace(prepared, splits=replace(prepared.splits, folds=(first[1:], (first[0], *second))))
    with pytest.raises(UserError, match="of its 3 validation cases and the 2 of fold 0 only 2 are the same"):
        prune(PruneSettings(trial=folder, out=tmp_path / "small"), fewer)
    assert not (tmp_path / "small").exists()


def test_an_export_that_fails_leaves_nothing_behind(trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, prepared, _ = trial
    settings = PruneSettings(trial=folder, out=tmp_path / "there" / "small", onnx=True)

    def fail(*_: object, **__: object) -> float:
        raise UserError("reads otherwise")

    monkeypatch.setattr(pruning, "export_onnx", fail)
    with pytest.raises(UserError, match="reads otherwise"):
        prune(settings, prepared)
    assert list((tmp_path / "there").iterdir()) == []
    settings.out.mkdir()  # empty: it may be filled
    monkeypatch.setattr(pruning, "export_onnx", lambda *_, **__: 0.0)
    assert prune(settings, prepared).onnx_difference == 0.0
    assert (settings.out / "outcome.json").is_file()


def test_a_case_takes_the_time_of_all_its_patches(tmp_path: Path):
    prepared = tiny_prepared(tmp_path / "data", shape=(1, 64, 64), cases=3)
    config = TrialConfig(
        architecture="unet_sharp", options=OPTIONS, in_channels=1, classes=2, patch_size=(8, 8), steps=2, epochs=1
    )
    context = WorkerContext(trial_id="t", folder=tmp_path / "trial", device=torch.device("cpu"), threads=1)
    train_trial(config, prepared, context)
    result = prune(PruneSettings(trial=tmp_path / "trial", out=tmp_path / "small", level=1), prepared)
    (small,) = result.outcome.variants
    assert small.seconds_per_case == result.scores[0].seconds_per_case > result.scores[0].cost.seconds
    table = (tmp_path / "small" / "levels.md").read_text()
    for column in ("GFLOPs per patch of 8x8", "ms per patch of 8x8", "ms per case"):
        assert column in table


def test_the_speed_of_levels_is_drawn(trial, tmp_path: Path):
    folder, prepared, _ = trial
    result = prune(PruneSettings(trial=folder, out=tmp_path / "small", tolerance=0.9), prepared)
    assert result.kept.cost.level == 1
    assert (tmp_path / "small" / pruning.PICTURE).read_bytes()[:4] == b"\x89PNG"
