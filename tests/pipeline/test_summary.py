"""Figures of a run, from results small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overread.confidence.judgement import Judgement
from overread.metrics.summary import Summary
from overread.pipeline.reading import CaseResult
from overread.pipeline.selection_report import Brought
from overread.pipeline.summary import BASELINE, BEST_MEMBER, ORACLE_MEMBER, RunSummary, summarise_run
from overread.records import CaseConfidence, ImportedMember, Manifest, Member, Preprocessing, TrialConfig

CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(16, 16), steps=1)


def member(name: str, validation: float) -> Member:
    return Member(
        name=name,
        trial_id=name,
        architecture="unet",
        variant="main",
        config=CONFIG,
        weights=f"{name}.safetensors",
        sha256="0",
        validation_dice=validation,
    )


MANIFEST = Manifest(
    name="set",
    members=(member("a", 0.8), member("b", 0.7)),
    label_names=("background", "organ"),
    label_values=(0, 1),
    preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
    winners="w",
    prepared="p",
    locked_cases=4,
    baseline=member("base", 0.6),
)


def result(
    case: str, confidence: float | None, dice: float, a: float, b: float, base: float, flag: str = ""
) -> CaseResult:
    return CaseResult(
        confidence=CaseConfidence(
            case=case,
            n_readings=2,
            flag=flag,
            foreground=0.5,
            relation_confidence=confidence,
            pairwise_dice=confidence,
            relation_confidence_per_class={"organ": confidence},
            pairwise_dice_per_class={"organ": confidence},
        ),
        dice=dice,
        dice_per_class={"organ": dice if case != "d" else None},
        has_foreground=case != "d",
        predicted_foreground=case == "d",
        member_dice={"a": a, "b": b, "base": base},
    )


RESULTS = [
    result("a", 0.9, 0.9, 0.8, 0.7, 0.6),
    result("b", 0.8, 0.8, 0.8, 0.7, 0.6),
    result("c", 0.7, 0.4, 0.4, 0.7, 0.2),
    result("d", None, 0.0, 0.0, 0.0, 0.0, flag="all_empty"),
]
SUMMARY = summarise_run(
    "set", MANIFEST, RESULTS, seconds={"search": 1.234}, trials={"unet": 2}, difficulty={"a": 0.1, "b": 0.2, "c": 0.3}
)


def test_means_over_the_locked_cases() -> None:
    assert SUMMARY.ensemble.locked_dice == pytest.approx((0.9 + 0.8 + 0.4 + 0.0) / 4)
    assert SUMMARY.ensemble.n == 4
    assert [m.locked_dice for m in SUMMARY.members] == pytest.approx([0.5, 0.525])
    assert [m.n for m in SUMMARY.members] == [4, 4]
    assert SUMMARY.baseline is not None
    assert SUMMARY.baseline.locked_dice == pytest.approx(0.35)


def test_a_class_counts_only_the_cases_that_have_it() -> None:
    assert SUMMARY.ensemble.locked_dice_per_class["organ"] == pytest.approx(0.7)
    assert SUMMARY.ensemble.per_class_n == {"organ": 3}


def test_normal_cases_stand_apart() -> None:
    split = SUMMARY.ensemble.by_foreground
    assert split is not None
    assert split.foreground.mean == pytest.approx(0.7)
    assert (split.foreground.n, split.normal, split.false_positive_rate) == (3, 1, 1.0)


def test_differences_are_paired() -> None:
    # The best member by validation Dice is a (0.8 to 0.7): differences 0.1, 0, 0, 0.
    assert SUMMARY.differences[BEST_MEMBER].mean == pytest.approx(0.025)
    # That by locked Dice is b (0.525 to 0.5), which nobody could know: 0.2, 0.1, -0.3, 0.
    assert SUMMARY.differences[ORACLE_MEMBER].mean == pytest.approx(0.0)
    assert SUMMARY.differences[BASELINE].mean == pytest.approx((0.3 + 0.2 + 0.2 + 0.0) / 4)


def test_a_member_without_validation_cases_is_no_choice_of_a_user() -> None:
    person = ImportedMember(name="b", folder="", sha256="", cases=4, validation_dice=None)
    only = summarise_run("set", replace(MANIFEST, members=(), imported=(person,)), RESULTS, seconds={}, trials={})
    assert set(only.differences) == {BASELINE, ORACLE_MEMBER}


def test_what_members_bring_stands_beside_their_dice() -> None:
    nothing = Summary(mean=0.01, sd=None, n=2, low=-0.01, high=0.03)
    brought = {"a": Brought(contribution=nothing, error_correlation=0.4)}
    found = summarise_run("set", MANIFEST, RESULTS, seconds={}, trials={}, brought=brought)
    assert [(m.contribution, m.error_correlation) for m in found.members] == [(nothing, 0.4), (None, None)]


def test_a_failure_is_what_the_user_says() -> None:
    # Dice 0.9, 0.8, 0.4 and 0
    for threshold, failures in ((0.7, 2), (0.3, 1), (0.85, 3)):
        found = summarise_run("set", MANIFEST, RESULTS, seconds={}, trials={}, failure_dice=threshold)
        assert {f.failures for f in found.failure.values()} == {failures}
        assert {f.failure_dice for f in found.failure.values()} == {threshold}


def test_flagged_cases_have_no_place_in_the_correlation() -> None:
    correlation = SUMMARY.confidence["relation_confidence"]
    assert correlation.n == 3
    assert correlation.spearman == pytest.approx(1.0)
    assert SUMMARY.difficulty["pairwise_dice"].spearman == pytest.approx(-1.0)


def test_the_summary_survives_json() -> None:
    assert type(SUMMARY).from_json(SUMMARY.to_json()) == SUMMARY
    assert {"python", "overread", "torch", "ray"} <= set(SUMMARY.versions)


def test_intervals_are_resampled_by_group() -> None:
    # Two patients with the Dice values 0.9 and 0.3 each: every resample of patients has the mean 0.6.
    results = [
        replace(result(case, 0.5, dice, 0.1, 0.1, dice - 0.2), group=group)
        for case, dice, group in (("a", 0.9, "p"), ("b", 0.3, "p"), ("c", 0.9, "q"), ("e", 0.3, "q"))
    ]
    summary = summarise_run("set", MANIFEST, results, seconds={}, trials={})
    assert (summary.ensemble.low, summary.ensemble.high) == pytest.approx((0.6, 0.6))
    assert summary.ensemble.by_foreground is not None
    assert summary.ensemble.by_foreground.all.low == pytest.approx(0.6)
    alone = summarise_run("set", MANIFEST, [replace(r, group="") for r in results], seconds={}, trials={})
    assert alone.ensemble.low is not None and alone.ensemble.low < 0.5


def test_every_score_column_is_correlated() -> None:
    # c_12 rises with the Dice in the three rows that have it.
    scores = {"a": 0.9, "b": 0.5, "c": 0.1}
    rows = [
        replace(r, confidence=replace(r.confidence, scores={"c_12": scores[r.confidence.case]}))
        if r.confidence.case in scores
        else r
        for r in RESULTS
    ]
    summary = summarise_run("set", MANIFEST, rows, seconds={}, trials={}, difficulty={"a": 0.1, "b": 0.2, "c": 0.3})
    assert list(summary.confidence) == ["relation_confidence", "pairwise_dice", "c_12"]
    assert (summary.confidence["c_12"].n, summary.confidence["c_12"].spearman) == (3, pytest.approx(1.0))
    assert summary.difficulty["c_12"].spearman == pytest.approx(-1.0)


def judgement() -> Judgement:
    return Judgement(winners="w", coverage=0.9, targets={}, calibration=())


def test_validation_and_locked_stand_beside_their_difference() -> None:
    seen = [result("v", 0.9, 1.0, 0.9, 0.5, 0.5), result("w", 0.9, 0.8, 0.7, 0.5, 0.5)]
    summary = summarise_run("set", MANIFEST, RESULTS, seconds={}, trials={}, judgement=judgement(), validation=seen)
    found = summary.generalisation
    assert list(found) == ["a", "b", "base", "ensemble"]
    assert found["a"].validation.mean == pytest.approx(0.8)
    assert found["a"].locked.mean == pytest.approx(0.5)
    assert found["a"].difference.mean == pytest.approx(-0.3)
    assert found["ensemble"].difference.mean == pytest.approx(0.525 - 0.9)
    low, high = found["b"].difference.low, found["b"].difference.high
    # validation of b is 0.5 twice; its locked mean lies between 0 and 0.7
    assert low is not None and high is not None and -0.5 <= low < high <= 0.2 + 1e-9
    assert RunSummary.from_json(summary.to_json()) == summary
    without = summarise_run("set", MANIFEST, RESULTS, seconds={}, trials={}, validation=seen)
    assert without.generalisation == {}  # readings of an earlier package


def test_members_are_tested_in_pairs() -> None:
    # a - b over four cases: 0.1, 0.1, -0.3, 0; without the 0 the ranks are 1.5, 1.5 and 3: both signs sum to 3
    (test,) = SUMMARY.winner_tests
    assert (test.first, test.second, test.n) == ("a", "b", 4)
    assert test.difference == pytest.approx(-0.025)
    assert test.p == test.p_holm == pytest.approx(1.0, abs=1e-9)
