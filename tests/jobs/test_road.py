"""The whole road on a small phantom, as a user walks it: run, leaderboard, another ensemble, new images, report."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.data.phantom import PhantomSettings, write_phantom
from overread.records import Manifest, Winners

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


def overread(place: Path, *arguments: str, job: str | None = None, code: int = 0) -> str:
    """Run a command (or a job) in a process of its own; return standard output."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"OVERREAD_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT / "platform")}
    start = [str(ROOT / "jobs" / f"{job}.py")] if job else ["-c", "from overread.cli import main; main()"]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        env=environment, cwd=place, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run of a few seconds per training: three families, all stages."""
    data = write_phantom(place / "data", PhantomSettings(cases=36, size=32, seed=3))
    out = place / "run"
    printed = overread(
        place, "run", "--data", str(data), "--out", str(out), "--trials", "3", "--time-budget", "110s", "--folds", "3",
        "--cpus", "2",
    )  # fmt: skip
    assert f"report: {out / 'report.html'}" in printed
    return out


def test_the_run_folder_is_complete(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    winners = Winners.load(run / "winners.json")
    manifest = Manifest.load(run / "ensemble" / "manifest.json")
    assert len({member["architecture"] for member in summary["members"]}) >= 2
    assert {"name", "architecture", "validation_dice", "locked_dice"} <= set(summary["members"][0])
    assert summary["ensemble"]["n"] == manifest.locked_cases == len(list((run / "predictions" / "masks").iterdir()))
    assert set(summary["ensemble"]["locked_dice_per_class"]) == set(manifest.label_names[1:])
    assert {"pearson", "spearman", "n"} <= set(summary["confidence"]["relation_confidence"])
    assert {"prepare", "search", "ensemble", "predict", "report", "total"} <= set(summary["seconds"])
    assert manifest.winners == winners.fingerprint()
    assert summary["baseline"]["architecture"] == "unet"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not list(run.rglob("*.pkl"))


def test_confidence_has_a_row_per_locked_case(run: Path) -> None:
    with (run / "predictions" / "confidence.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    summary = json.loads((run / "summary.json").read_text())
    assert len(rows) == summary["ensemble"]["n"]
    assert list(rows[0])[:6] == ["case", "n_readings", "flag", "foreground", "relation_confidence", "pairwise_dice"]
    assert {row["n_readings"] for row in rows} == {str(len(summary["members"]))}


def test_masks_keep_the_grid_and_values_of_the_images(run: Path, place: Path) -> None:
    mask = sorted((run / "predictions" / "masks").iterdir())[0]
    image = Image.open(place / "data" / "images" / mask.name)
    pixels = np.asarray(Image.open(mask))
    assert pixels.shape == (image.height, image.width)
    assert set(np.unique(pixels)) <= set(Manifest.load(run / "ensemble" / "manifest.json").label_values)


def test_the_locked_split_was_never_trained_or_validated_on(run: Path) -> None:
    locked = {path.stem for path in (run / "predictions" / "masks").iterdir()}
    outcomes = [json.loads(path.read_text()) for path in (run / "search" / "trials").glob("*/outcome.json")]
    assert len(outcomes) == 3
    seen = {case for outcome in outcomes for variant in outcome["variants"] for case in variant["case_dice"]}
    assert seen
    assert not seen & locked


def test_winners_are_listed_and_other_ones_refused_after_the_locked_split_was_read(run: Path, place: Path) -> None:
    rows = json.loads(overread(place, "winners", "--out", str(run), "--json"))
    assert [row["validation_dice"] for row in rows] == sorted((row["validation_dice"] for row in rows), reverse=True)
    assert any(row["member"] for row in rows)
    assert not any(row["winner"] for row in rows)  # chosen by rule: the tags of people are theirs
    one = f"{rows[-1]['trial_id']}:{rows[-1]['variant']}"
    overread(place, "--out", str(run), "--members", one, job="ensemble", code=2)


def test_new_images_are_read_by_the_job(run: Path, place: Path) -> None:
    new = place / "new"
    new.mkdir()
    pixels = np.asarray(Image.open(sorted((place / "data" / "images").iterdir())[0]))
    Image.fromarray(np.pad(pixels, ((0, 7), (0, 3)))).save(new / "scan one.tif")
    out = place / "read"
    arguments = ["--package", str(run / "ensemble"), "--images", str(new), "--out", str(out), "--probabilities"]
    overread(place, *arguments, job="predict")
    mask = Image.open(out / "masks" / "scan one.tif")
    assert (mask.height, mask.width) == (pixels.shape[0] + 7, pixels.shape[1] + 3)
    for name in ("possible", "consensus", "probabilities"):
        assert (out / name / "scan one.tif").is_file()
    assert "scan one" in (out / "report.html").read_text()
    overread(place, *arguments, job="predict", code=2)  # the folder exists now


def test_masks_can_be_evaluated_again(run: Path, place: Path) -> None:
    arguments = ["--predictions", str(run / "predictions"), "--data", str(place / "data"), "--json"]
    overread(place, *arguments, job="evaluate", code=2)  # only the locked cases have masks
    arguments.append("--allow-missing")
    table = json.loads(overread(place, *arguments, job="evaluate"))
    summary = json.loads((run / "summary.json").read_text())
    assert table["overall"]["dice"]["all"]["mean"] == pytest.approx(summary["ensemble"]["locked_dice"])


def test_the_report_is_made_again_from_the_results(run: Path, place: Path) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    overread(place, "report", "--out", str(run))
    assert (run / "report.html").read_text() == before
