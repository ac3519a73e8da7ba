"""Calibration of a package, with readings that are drawn instead of computed."""

from __future__ import annotations

import csv
import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from overread.confidence.judgement import MEAN, Judgement
from overread.data.prepare import prepare_dataset, serial_map
from overread.ensemble.package import load_judgement, load_package, write_package
from overread.errors import UserError
from overread.jsonio import read_json
from overread.pipeline import stages
from overread.pipeline.calibrating import calibrate, calibrate_if_possible, check_unchanged, judgement_lines
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.reading import CaseResult, ReadItem
from overread.pipeline.stages import Run, assemble, conclude, load_results, read_locked
from overread.pipeline.summary import RunSummary, summarise_run
from overread.records import (
    CaseConfidence,
    Manifest,
    Prepared,
    PrepareSettings,
    TrialConfig,
    TrialOutcome,
    VariantScore,
)
from overread.testing.drawn import write_members
from overread.testing.tiny import tiny_architecture, tiny_config
from overread.tracking.runs import Tracker

CASES = 80
SETTINGS = PrepareSettings(locked_fraction=0.3, calibration_fraction=0.2, folds=2)
CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)


def read(case: str, agreement_less: float = 0.0) -> CaseResult:
    """Return a reading whose agreement is the Dice and noise; every tenth case is empty in all readings."""
    rng = np.random.default_rng(int(hashlib.sha256(case.encode()).hexdigest()[:8], 16))
    dice = float(rng.uniform(0.4, 0.95))
    empty = case.endswith("7")
    pairwise = None if empty else dice + float(rng.normal(0, 0.05)) - agreement_less
    relation = None if pairwise is None else pairwise - 0.1
    row = CaseConfidence(
        case=case,
        n_readings=2,
        flag="all_empty" if empty else "",
        foreground=0.4 if empty else 1.0,
        relation_confidence=relation,
        pairwise_dice=pairwise,
        relation_confidence_per_class={"foreground": relation},
        pairwise_dice_per_class={"foreground": pairwise},
    )
    dice = 0.0 if empty else dice
    return CaseResult(confidence=row, group=case, dice=dice, dice_per_class={"foreground": dice})


def drawn(function: Any, items: Sequence[ReadItem], title: str = "") -> list[CaseResult]:
    return [read(item.case) for item in items]


def shifted(function: Any, items: Sequence[ReadItem], title: str = "") -> list[CaseResult]:
    return [read(item.case, 0.35) for item in items]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(CASES):
        Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(root / "images" / f"n{i:02d}.png")
        Image.fromarray(((rng.uniform(size=(8, 8)) < 0.5) * 255).astype(np.uint8)).save(
            root / "masks" / f"n{i:02d}.png"
        )
    return root


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    return prepare_dataset(data, SETTINGS, data.parent / "cache", serial_map)


@pytest.fixture
def run(tmp_path: Path, data: Path, prepared: Prepared) -> Run:
    """A run with a package of two members."""
    folder = RunFolder(tmp_path / "run")
    for trial in ("t0", "t1"):
        score = VariantScore(variant="main", dice=0.8, dice_per_class={}, cases=1, seconds_per_case=0.1)
        TrialOutcome(
            trial_id=trial, config=CONFIG, state="finished", variants=(score,), weights="weights.safetensors"
        ).save(folder.search / "trials" / trial / "outcome.json")
        (folder.search / "trials" / trial / "weights.safetensors").write_text(trial)
    record = RunRecord(
        data=str(data),
        cache=str(tmp_path / "cache"),
        prepare=SETTINGS,
        tracking_uri=None,
        experiment="e",
        search_id="s",
    )
    made = Run(folder=folder, record=record, prepared=prepared, tracker=cast(Tracker, None))
    assemble(made, top=2)
    return made


def test_each_split_has_its_own_part(run: Run) -> None:
    judgement = calibrate(run, drawn)
    assert judgement is not None
    splits, folder = run.prepared.splits, run.folder.calibration
    for name, cases in (("validation", splits.folds[0]), ("calibration", splits.calibration)):
        assert {r.confidence.case for r in load_results(folder / name)} == set(cases)
        assert not (folder / name / "masks").exists()
    fit, bound = judgement.targets[MEAN].regressor, judgement.targets[MEAN].bound
    safe = [[case for case in cases if not case.endswith("7")] for cases in (splits.folds[0], splits.calibration)]
    assert fit is not None
    assert (fit.cases, bound.groups) == (len(safe[0]), len(safe[1]))
    assert bound.quantile is not None
    assert load_package(run.folder.ensemble).judgement == judgement
    assert not run.folder.predictions.exists()  # the locked split is not touched


def test_locked_cases_get_predicted_dice_and_bounds(run: Run) -> None:
    judgement = calibrate(run, drawn)
    results = read_locked(run, drawn)
    with (run.folder.predictions / "confidence.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(run.prepared.splits.locked) == 24
    for row, result in zip(rows, results, strict=True):
        if row["flag"]:
            assert row["predicted_dice"] == row["dice_lower_bound"] == row["dice_lower_bound_foreground"] == ""
        else:
            assert float(row["dice_lower_bound"]) <= float(row["predicted_dice"])
            assert abs(float(row["predicted_dice"]) - (result.dice or 0)) < 0.25
    assert load_results(run.folder.predictions) == results
    manifest = Manifest.load(run.folder.ensemble / "manifest.json")
    calibration = load_results(run.folder.calibration / "calibration")
    summary = summarise_run(
        "set", manifest, results, seconds={}, trials={}, judgement=judgement, calibration=calibration
    )
    assert summary.resplit_bounds[MEAN] == pytest.approx(0.93, abs=0.05)  # rank 15 of 15 or so
    measured = summary.bounds[MEAN]
    assert measured.groups == sum(not row["flag"] for row in rows)
    assert measured.as_expected
    assert summary.failure["predicted_dice"].unscored == sum(bool(row["flag"]) for row in rows)
    assert set(summary.aurc_minus_pairwise) == {"relation_confidence", "predicted_dice"}
    # one monotone score: the same order, so no difference in any resample
    assert summary.aurc_minus_pairwise["predicted_dice"].difference.high == pytest.approx(0.0)
    assert type(summary).from_json(summary.to_json()) == summary


def test_a_real_package_reads_without_writing_masks(run: Run) -> None:
    """Untrained networks: their readings are poor, and calibrated all the same."""
    prepared, package = run.prepared, run.folder.ensemble
    shutil.rmtree(package)
    with tiny_architecture():
        configs = {
            name: (tiny_config(seed=seed, options={"width": 4 + seed}), "main") for seed, name in enumerate("ab")
        }
        winners, sources = write_members(run.folder.root / "members", prepared, configs)
        write_package(package, winners, sources, prepared, name="tiny", versions={})
        judgement = calibrate(run, serial_map)
        assert judgement is not None
        results = load_results(run.folder.calibration / "calibration")
        assert all(result.dice is not None and result.picture is None for result in results)
        assert sorted(path.name for path in (run.folder.calibration / "calibration").iterdir()) == [
            "confidence.csv",
            "results.json",
        ]
        locked = read_locked(run, serial_map)
    assert len(list((run.folder.predictions / "masks").iterdir())) == len(locked) == 24
    known = [judgement.judge(result.confidence) == result.confidence for result in locked]
    assert all(known)


def test_summary_and_tables_tell_failure_detection_and_bounds(run: Run) -> None:
    from overread.cli._tables import summary_grids

    calibrate(run, drawn)
    summary = conclude(run, read_locked(run, drawn), {})  # MLflow is not there, and that does not matter
    assert RunSummary.load(run.folder.summary) == summary
    tables = {grid.title.split(" (")[0]: grid for grid in summary_grids(summary)}
    failure, bounds = tables["Failure detection"], tables["Lower bound of Dice on the locked split"]
    assert [row[0] for row in failure.rows] == ["relation confidence", "pairwise dice", "predicted dice"]
    assert [row[0] for row in bounds.rows] == ["mean", "foreground"]
    assert bounds.rows[0][2] == f"{summary.bounds[MEAN].share:.3f}"
    assert "predicted Dice" in run.folder.report.read_text()


def test_a_shift_is_told_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    calibrate(run, drawn)
    with caplog.at_level(logging.WARNING, logger="overread"):
        read_locked(run, drawn)
        assert "may not hold" not in caplog.text
        read_locked(run, shifted)
    assert caplog.text.count("may not hold") == 1


def test_a_shift_stands_in_the_files_beside_the_report(run: Run) -> None:
    calibrate(run, drawn)
    summary = conclude(run, read_locked(run, drawn), {})
    told = read_json(run.folder.predictions / "shift.json")
    assert told["warning"] is None and summary.warnings == ()
    assert summary.shift is not None and told["shift"] == summary.shift.to_json()
    summary = conclude(run, read_locked(run, shifted), {})
    told = read_json(run.folder.predictions / "shift.json")
    assert "may not hold" in told["warning"] and summary.warnings == (told["warning"],)
    assert RunSummary.load(run.folder.summary) == summary
    assert "may not hold" in run.folder.report.read_text()
    (run.folder.ensemble / "confidence.json").unlink()
    read_locked(run, shifted)
    assert not (run.folder.predictions / "shift.json").exists()  # that of an earlier reading


def never(*_: object) -> list[CaseResult]:
    raise AssertionError("no case may be read")


def test_the_calibration_stays_once_the_locked_split_was_read(run: Run) -> None:
    first = calibrate(run, drawn, coverage=0.8)
    check_unchanged(run.folder, 0.9)  # nothing was read yet
    assert calibrate(run, drawn, coverage=0.9) != first
    kept = calibrate(run, drawn, coverage=0.8)
    assert kept == first
    read_locked(run, drawn)
    before = (run.folder.ensemble / "confidence.json").read_bytes()
    for coverage, asked in ((0.9, "coverage 0.9"), (None, "no calibration")):
        with pytest.raises(UserError, match=f"must stay at coverage 0.8.*but {asked} was asked for") as caught:
            check_unchanged(run.folder, coverage)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"must stay at coverage 0\.8"):
        calibrate(run, drawn)
    # the same again, as a resumed run does it: a new package of the same winners, and no case read
    assemble(run, top=2)
    assert (run.folder.ensemble / "confidence.json").read_bytes() == before
    assert calibrate(run, never, coverage=0.8) == kept
    assert (run.folder.ensemble / "confidence.json").read_bytes() == before


def interrupted(function: Any, items: Sequence[ReadItem], title: str = "") -> list[CaseResult]:
    """Write the mask of the first case and be killed."""
    mask = Path(items[0].out) / "masks" / f"{items[0].case}.png"
    mask.parent.mkdir(parents=True)
    mask.touch()
    raise KeyboardInterrupt


def test_the_calibration_stays_once_a_reading_of_the_locked_split_was_interrupted(run: Run) -> None:
    kept = calibrate(run, drawn, coverage=0.8)
    with pytest.raises(KeyboardInterrupt):
        read_locked(run, interrupted)
    before = (run.folder.ensemble / "confidence.json").read_bytes()
    with pytest.raises(UserError, match=r"must stay at coverage 0\.8"):
        check_unchanged(run.folder, 0.9)
    assemble(run, top=2)
    assert calibrate(run, never, coverage=0.8) == kept
    assert (run.folder.ensemble / "confidence.json").read_bytes() == before
    assert len(read_locked(run, drawn)) == 24


def test_the_calibration_survives_an_interrupted_packaging(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = calibrate(run, drawn, coverage=0.8)
    read_locked(run, drawn)
    package = run.folder.ensemble
    before = (package / "confidence.json").read_bytes()
    package.rename(package.with_name("ensemble.replaced"))  # killed between the old folder and the new one
    with pytest.raises(UserError, match=r"must stay at coverage 0\.8"):
        check_unchanged(run.folder, 0.9)
    package.rename(package.with_name("ensemble.replaced"))
    assemble(run, top=2)
    assert (package / "confidence.json").read_bytes() == before
    assert calibrate(run, never, coverage=0.8) == kept

    def full(path: Path, content: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(stages, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        assemble(run, top=2)
    assert (package / "confidence.json").read_bytes() == before
    assert load_package(package).judgement == kept
    assert not [path for path in run.folder.root.iterdir() if path.name.startswith((".partial", "ensemble."))]


def test_a_package_that_read_the_locked_split_without_a_calibration_gets_none(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    read_locked(run, drawn)
    check_unchanged(run.folder, None)
    with caplog.at_level(logging.WARNING, logger="overread"):
        assert calibrate(run, never) is None
    assert "the package stays so" in caplog.text


@pytest.mark.parametrize("error", [UserError("case n01: all failed"), ZeroDivisionError("division by zero")])
def test_what_cannot_be_calibrated_ends_no_run(run: Run, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    def fail(function: Any, items: Sequence[ReadItem], title: str = "") -> list[CaseResult]:
        raise error

    calibrate(run, drawn)
    with caplog.at_level(logging.WARNING, logger="overread"):
        assert calibrate_if_possible(run, fail) is None
    assert "could not be calibrated" in caplog.text and str(error) in caplog.text
    assert ("Traceback" in caplog.text) == isinstance(error, ZeroDivisionError)
    assert load_package(run.folder.ensemble).judgement is None  # no bound of an earlier calibration
    with pytest.raises(type(error)):  # where calibrating is all that was asked for
        calibrate(run, fail)


def test_undefined_scores_everywhere_give_none(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def empty(function: Any, items: Sequence[ReadItem], title: str = "") -> list[CaseResult]:
        found = drawn(function, items, title)
        return [replace(result, confidence=replace(result.confidence, flag="all_empty")) for result in found]

    with caplog.at_level(logging.WARNING, logger="overread"):
        judgement = calibrate_if_possible(run, empty)
    assert judgement is not None and judgement.targets[MEAN].regressor is None
    assert "but there are 0: dice_lower_bound stays empty" in caplog.text
    assert all(result.confidence.predicted_dice is None for result in read_locked(run, drawn))


def test_too_few_groups_for_the_coverage_are_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="overread"):
        judgement = calibrate(run, drawn, coverage=0.99)
    assert "a lower bound at coverage 0.99 needs 99 calibration groups" in caplog.text
    assert judgement is not None
    assert judgement_lines(judgement)[0].endswith(
        f"lower bound at 0.99: none, {judgement.targets[MEAN].bound.groups} groups"
    )
    row = read_locked(run, drawn)[0].confidence
    assert row.dice_lower_bound is None


def test_without_calibration_cases_there_is_none(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    prepared = replace(run.prepared, splits=replace(run.prepared.splits, calibration=()))
    calibrate(run, drawn)
    with caplog.at_level(logging.WARNING, logger="overread"):
        assert calibrate(replace(run, prepared=prepared), drawn) is None
    assert "1 folds and 0 cases: the package has none" in caplog.text
    assert load_package(run.folder.ensemble).judgement is None  # the earlier one is gone
    assert judgement_lines(None) == ["calibration: none"]


def test_a_retrained_package_takes_the_regressor_of_the_winners_it_repeats(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = calibrate(run, drawn)
    assert first is not None
    shutil.copytree(run.folder.root, tmp_path / "origin")
    record = replace(run.record, retrained_from=str(tmp_path / "origin"), retrained_winners=first.winners)
    again = calibrate(replace(run, record=record), shifted)
    assert again is not None and again.targets[MEAN].regressor == first.targets[MEAN].regressor
    record = replace(record, retrained_winners="chosen before")
    with caplog.at_level(logging.WARNING, logger="overread"):
        assert calibrate(replace(run, record=record), drawn) is None
    assert "need the winners that were retrained" in caplog.text


def test_the_file_of_other_winners_is_refused(run: Run) -> None:
    judgement = calibrate(run, drawn)
    assert judgement is not None
    replace(judgement, winners="others").save(run.folder.ensemble / "confidence.json")
    with pytest.raises(UserError, match="must belong to the package's winners"):
        load_judgement(run.folder.ensemble, Manifest.load(run.folder.ensemble / "manifest.json"))
    assert Judgement.load(run.folder.ensemble / "confidence.json").winners == "others"
