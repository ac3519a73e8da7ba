"""Assembling and reading: what is kept, what is recorded, and what may fail without ending a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from overread.data.locked_uses import earlier_uses
from overread.data.prepare import serial_map
from overread.errors import UserError
from overread.pipeline import stages
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.stages import Run, assemble, open_run, read_locked
from overread.records import Manifest, PrepareSettings, TrialConfig, TrialOutcome, VariantScore
from overread.testing.tiny import tiny_prepared
from overread.tracking import winners as tracked
from overread.tracking.runs import Tracker

CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)


class BrokenTracker:
    """MLflow has gone."""

    def trial_runs(self) -> list[Any]:
        raise ConnectionError("no server")

    def ensemble_run(self, *arguments: object) -> str:
        raise ConnectionError("no server")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two finished trials."""
    folder = RunFolder(tmp_path / "run")
    for trial, dice in (("t0", 0.7), ("t1", 0.8)):
        score = VariantScore(variant="main", dice=dice, dice_per_class={}, cases=1, seconds_per_case=0.1)
        outcome = TrialOutcome(
            trial_id=trial, config=CONFIG, state="finished", variants=(score,), weights="weights.safetensors"
        )
        outcome.save(folder.search / "trials" / trial / "outcome.json")
        (folder.search / "trials" / trial / "weights.safetensors").write_text(trial)
    prepared = tiny_prepared(tmp_path / "data")
    record = RunRecord(
        data="data", cache=str(tmp_path / "cache"), prepare=PrepareSettings(), tracking_uri=None, experiment="e",
        search_id="s",
    )  # fmt: skip
    splits = replace(prepared.splits, locked=("case0",))
    return Run(
        folder=folder, record=record, prepared=replace(prepared, splits=splits), tracker=cast(Tracker, BrokenTracker())
    )


def test_mlflow_may_fail_but_not_a_mistake(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, logger="overread"):
        winners, manifest = assemble(run, top=1)
    assert [member.trial_id for member in winners.members] == ["t1"]
    assert "tagging the members in MLflow failed, the run goes on: ConnectionError: no server" in caplog.text
    assert Manifest.load(run.folder.ensemble / "manifest.json") == manifest

    def refuse(*_: object) -> None:
        raise UserError("unknown trial")

    monkeypatch.setattr(tracked, "tag_members", refuse)
    with pytest.raises(UserError, match="unknown trial"):
        assemble(run, top=1)


def test_only_members_named_by_people_become_winners(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged: list[tuple[str, list[tuple[str, str]]]] = []
    monkeypatch.setattr(tracked, "tag_members", lambda _, named: tagged.append(("member", named)))
    monkeypatch.setattr(tracked, "tag_winners", lambda _, named: tagged.append(("winner", named)))
    assemble(run, top=1)
    assert tagged == [("member", [("t1", "main")])]
    assemble(run, top=1, chosen=(("t0", "main"),))
    assert tagged[1:] == [("member", [("t0", "main")]), ("winner", [("t0", "main")])]


def test_the_old_package_comes_back_when_the_new_one_fails(run: Run) -> None:
    _, old = assemble(run, top=1)
    stale = run.folder.ensemble.with_name("ensemble.replaced")
    stale.mkdir()
    (stale / "stale.txt").touch()
    assert assemble(run, top=1)[1] == old  # a stale folder is no obstacle
    assert not stale.exists()
    with pytest.raises(UserError, match="must be of this prepared data set"):
        _assemble_of_other_data(run)
    assert Manifest.load(run.folder.ensemble / "manifest.json") == old
    assert not stale.exists()


def test_a_package_that_a_killed_packaging_moved_aside_is_found_by_any_stage(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "open_tracker", lambda _: run.tracker)
    run.record.save(run.folder.record)
    _, manifest = assemble(run, top=1)
    run.folder.ensemble.rename(run.folder.ensemble.with_name("ensemble.replaced"))
    open_run(run.folder, serial_map, prepared=run.prepared)
    assert Manifest.load(run.folder.ensemble / "manifest.json") == manifest


def _assemble_of_other_data(run: Run) -> None:
    """Fail inside the writing of the package."""
    from overread.ensemble import package

    real = package.write_package

    def write(out: Path, winners: Any, *arguments: Any, **options: Any) -> Manifest:
        assert not out.exists()
        return real(out, replace(winners, prepared="other"), *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "write_package", write)
        assemble(run, top=1)


def test_a_use_of_the_locked_split_is_recorded_before_the_first_case(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(run.record.cache)
    winners, manifest = assemble(run, top=1)
    assert manifest.earlier_packages == ()
    assert earlier_uses(cache, run.prepared, "another") == ()  # nothing was read yet

    def killed(*_: object, **__: object) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "read_labelled", killed)
    with pytest.raises(KeyboardInterrupt):
        read_locked(run, lambda function, items, title: [])
    assert earlier_uses(cache, run.prepared, "another") == (winners.fingerprint(),)
    _, later = assemble(run, top=1, chosen=(("t0", "main"),))
    assert later.earlier_packages == (winners.fingerprint(),)
