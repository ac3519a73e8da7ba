"""From results to the review page: pictures, warnings, and what is said of the run and of the lower bound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.confidence.judgement import Judgement, Known, fit_judgement
from overread.metrics.paired_tests import PairedTest
from overread.metrics.summary import Summary
from overread.pipeline.page import RETRAINED, RETRAINED_BOUNDS, report_data, write_page
from overread.pipeline.reading import CaseResult
from overread.pipeline.summary import EnsembleFigures, Generalisation, RunSummary, summarise_run
from overread.records import ALL_FOLDS, CaseConfidence, ImportedMember, Manifest, Member, Preprocessing, TrialConfig
from overread.review.page_data import PictureLimits
from overread.review.views import case_view

CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(16, 16), steps=1)
MEMBER = Member(
    name="a",
    trial_id="a",
    architecture="unet",
    variant="main",
    config=CONFIG,
    weights="a.safetensors",
    sha256="0",
    validation_dice=0.8,
)
AGAIN = replace(MEMBER, config=replace(CONFIG, fold=ALL_FOLDS))
MANIFEST = Manifest(
    name="set",
    members=(MEMBER,),
    label_names=("background", "organ"),
    label_values=(0, 1),
    preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
    winners="w",
    prepared="p",
    locked_cases=4,
)
IMPORTED = replace(
    MANIFEST,
    members=(),
    imported=(ImportedMember(name="nnunet", folder="f", sha256="0", cases=9, validation_dice=None),),
)
SUMMARY = RunSummary(
    dataset="set",
    members=(),
    ensemble=EnsembleFigures(locked_dice=None, locked_dice_per_class={}, n=0),
    confidence={},
)


def figures(mean: float, n: int, low: float | None = None, high: float | None = None) -> Summary:
    return Summary(mean=mean, sd=None, n=n, low=low, high=high)


def pair(p: float | None) -> PairedTest:
    return PairedTest(first="a", second="b", n=9, difference=0.1, p=p, p_holm=p)


def known(seed: int, n: int, prefix: str, shift: float = 0.0) -> list[Known]:
    """Return cases whose agreement follows their Dice; `shift` lowers both."""
    rng = np.random.default_rng(seed)
    found = []
    for at in range(n):
        dice = float(rng.uniform(0.5, 0.95)) - shift
        agreement = dice + float(rng.normal(0, 0.03))
        row = CaseConfidence(
            case=f"{prefix}{at:02d}",
            n_readings=2,
            foreground=1.0,
            relation_confidence=agreement,
            pairwise_dice=agreement,
            relation_confidence_per_class={"organ": agreement},
            pairwise_dice_per_class={"organ": agreement},
        )
        found.append(Known(row, row.case, dice, {"organ": dice}))
    return found


def judgement(groups: int = 30) -> Judgement:
    return fit_judgement(known(0, 40, "v"), known(1, groups, "c"), MANIFEST.label_names, winners="w")


def results(cases: list[Known], judge: Judgement, *, truth: bool) -> list[CaseResult]:
    return [
        CaseResult(
            confidence=judge.judge(case.row),
            dice=case.dice if truth else None,
            dice_per_class=dict(case.dice_per_class) if truth else {},
            has_foreground=True if truth else None,
            view=f"views/{case.row.case}.json",
        )
        for case in cases
    ]


def test_a_shift_of_the_scores_is_a_warning_on_the_page(tmp_path: Path) -> None:
    judge = judgement()
    same = report_data(MANIFEST, results(known(2, 40, "n"), judge, truth=False), tmp_path, None, judge)
    assert same.warnings == []
    shifted = report_data(MANIFEST, results(known(2, 40, "n", shift=0.3), judge, truth=False), tmp_path, None, judge)
    assert [warning.split(" differ")[0] for warning in shifted.warnings] == ["The predicted Dice of these 40 cases"]
    patient = [replace(result, group="p") for result in results(known(2, 40, "n", shift=0.3), judge, truth=False)]
    # forty pictures of one patient are too little to be sure
    assert report_data(MANIFEST, patient, tmp_path, None, judge).warnings == []


def test_the_bound_says_what_it_promises_and_what_was_measured(tmp_path: Path) -> None:
    judge = judgement()
    read = results(known(2, 40, "n"), judge, truth=True)
    summary = summarise_run("set", MANIFEST, read, seconds={}, trials={}, judgement=judge)
    notes = report_data(MANIFEST, read, tmp_path, summary, judge).notes
    measured = summary.bounds["mean"]
    assert notes[0] == (
        "The lower bound of the Dice should hold for 90 % of cases like those of the calibration (30 groups)."
    )
    assert notes[1].startswith(
        f"On the locked cases it held in {measured.held} of 40 groups ({measured.held / 0.4:.0f} %;"
    )


def test_bounds_are_a_table_for_the_mean_and_each_class(tmp_path: Path) -> None:
    judge = judgement()
    read = results(known(2, 40, "n"), judge, truth=True)
    summary = summarise_run(
        "set", MANIFEST, read, seconds={}, trials={}, judgement=judge,
        calibration=results(known(1, 30, "c"), judge, truth=True),
    )  # fmt: skip
    data = report_data(MANIFEST, read, tmp_path, summary, judge)
    assert [row.target for row in data.bounds] == ["mean over classes", "organ"]
    mean, organ = data.bounds
    assert (mean.wanted, mean.calibration_groups) == (0.9, 30)
    assert organ.width == judge.targets["class:organ"].bound.quantile
    assert organ.measured == summary.bounds["class:organ"]
    assert mean.measured is not None and mean.measured.expected == 28 / 31  # rank 28 of 30
    assert mean.resplit == pytest.approx(28 / 31, abs=0.02)
    assert list(data.coverage) == ["relation_confidence", "pairwise_dice", "predicted_dice"]
    write_page(tmp_path / "report.html", MANIFEST, read, tmp_path, summary, judgement=judge)
    text = (tmp_path / "report.html").read_text()
    assert f"{mean.measured.held} of 40" in text
    assert f"{100 * mean.measured.low:.3g} % to 100 %" in text  # type: ignore[operator]
    assert "90.3 %" in text  # 28 / 31
    # new cases have no truth: what to expect stands there, and nothing measured
    write_page(tmp_path / "report.html", MANIFEST, results(known(2, 4, "n"), judge, truth=False), tmp_path,
               judgement=judge)  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    assert "how wide the bounds are" in text and "How often the lower bound held" not in text
    write_page(tmp_path / "report.html", MANIFEST, results(known(2, 4, "n"), judge, truth=False), tmp_path)
    assert "how wide the bounds are" not in (tmp_path / "report.html").read_text()


def test_too_few_calibration_groups_give_no_bound_and_the_page_says_so(tmp_path: Path) -> None:
    judge = judgement(groups=5)
    read = results(known(2, 4, "n"), judge, truth=False)
    notes = report_data(MANIFEST, read, tmp_path, None, judge).notes
    assert notes == ["There is no lower bound of the Dice: 5 calibration groups are too few for it."]
    assert report_data(MANIFEST, read, tmp_path, None).notes == []


def test_pictures_come_from_the_views_that_are_there(tmp_path: Path) -> None:
    judge = judgement()
    read = results(known(2, 3, "n"), judge, truth=False)
    view = case_view(
        np.zeros((8, 8)),
        [("prediction", np.ones((8, 8), np.uint8))],
        foreground=np.ones((8, 8), np.uint8),
        slice_axis=None,
    )
    view.save(tmp_path / "views/n00.json")
    read[2] = replace(read[2], view=None)
    assert [row.view is not None for row in report_data(MANIFEST, read, tmp_path, None).cases] == [True, False, False]
    for limits, expected in ((None, "1 with the whole case"), (PictureLimits(volumes=0), "1 with its key slice")):
        write_page(tmp_path / "report.html", MANIFEST, read, tmp_path, judgement=judge, limits=limits)
        assert expected in (tmp_path / "report.html").read_text()


def test_the_plan_counts_the_failures_that_the_user_means(tmp_path: Path) -> None:
    judge = judgement()
    read = results(known(2, 20, "n"), judge, truth=True)
    dice = [result.dice or 0.0 for result in read]
    summary = summarise_run("set", MANIFEST, read, seconds={}, trials={}, failure_dice=0.6)
    for given, threshold in ((None, 0.6), (0.8, 0.8)):
        write_page(tmp_path / "report.html", MANIFEST, read, tmp_path, summary, failure_dice=given)
        data = json.loads((tmp_path / "report.html").read_text().split('id="data">')[1].split("</script>")[0])
        plan = data["plans"]["relation_confidence"]
        assert plan["failure_dice"] == threshold
        assert plan["failures"] == sum(value < threshold for value in dice)


@pytest.mark.parametrize("truth", [True, False])
def test_the_plan_is_of_the_true_dice_or_of_the_predicted(tmp_path: Path, truth: bool) -> None:
    judge = judgement()
    write_page(tmp_path / "report.html", MANIFEST, results(known(2, 20, "n"), judge, truth=truth), tmp_path)
    text = (tmp_path / "report.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["plans"]["predicted_dice"]["basis"] == ("true" if truth else "predicted")
    assert ("dice" in data["columns"], "dice_lower_bound" in data["columns"]) == (truth, True)


def test_notes_tell_what_the_choice_was_worth() -> None:
    summary = replace(
        SUMMARY,
        generalisation={
            "ensemble": Generalisation(
                validation=figures(0.9, 7), locked=figures(0.8, 4), difference=figures(-0.1, 4, -0.2, 0.05)
            )
        },
        winner_tests=(pair(0.01), pair(0.2), pair(None)),
        locked_uses=3,
    )
    named = report_data(IMPORTED, [], Path(), summary).notes
    assert named[0] == "Members were named by a person and frozen before the locked cases were read."
    assert "on the 7 validation cases and 0.800 on the 4 locked ones" in named[1]
    notes = report_data(MANIFEST, [], Path(), summary).notes
    assert notes[0] == "Members were chosen by validation Dice and frozen before the locked cases were read."
    assert notes[1].endswith("7 validation cases that members were chosen by and 0.800 on the 4 locked ones: -0.1000 "
                             "(95 % interval -0.2000 to +0.0500).")  # fmt: skip
    assert notes[2].startswith("1 of 3 pairs of members differ")
    assert notes[3] == "These locked cases have been read 3 times, by any package or experiment."


@pytest.mark.parametrize("summary", [None, SUMMARY])
def test_imported_members_are_named_and_what_is_not_known_is_left_out(summary: RunSummary | None) -> None:
    data = report_data(IMPORTED, [], Path(), summary)
    assert data.notes[-1].startswith("Readings of other tools or people vote too: nnunet.")
    assert len(data.notes) == (1 if summary is None else 2)
    assert [(row.name, row.architecture, row.validation_dice) for row in data.members] == [("nnunet", "imported", None)]


def test_a_retrained_member_has_no_validation_dice_of_its_own(tmp_path: Path) -> None:
    data = report_data(replace(MANIFEST, members=(AGAIN,)), [], tmp_path, SUMMARY)
    assert [row.validation_dice for row in data.members] == [None] and AGAIN.validation_dice == 0.8
    assert RETRAINED in data.notes and data.bounds_note == RETRAINED_BOUNDS
    usual = report_data(MANIFEST, [], tmp_path, SUMMARY)
    assert [row.validation_dice for row in usual.members] == [0.8]
    assert RETRAINED not in usual.notes and usual.bounds_note == ""
