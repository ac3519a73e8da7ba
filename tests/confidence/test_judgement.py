from dataclasses import replace

import numpy as np
import pytest

from overread.confidence.conformal import Shift
from overread.confidence.judgement import MEAN, Judgement, Known, fit_judgement, refit_bounds, shift_warning
from overread.confidence.ranking import ranking_score, worst_first
from overread.errors import UserError
from overread.records import CaseConfidence

LABELS = ("background", "organ", "mean")  # a label may have any name


def known(rng: np.random.Generator, case: str, *, shift: float = 0.0) -> Known:
    organ, lesion = rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.9)
    agreement = {
        "organ": float(organ + rng.normal(0, 0.03) - shift),
        "mean": float(lesion + rng.normal(0, 0.08) - shift),
    }
    both = sum(agreement.values()) / 2
    row = CaseConfidence(
        case=case,
        n_readings=3,
        foreground=1.0,
        relation_confidence=both - 0.1,
        pairwise_dice=both,
        relation_confidence_per_class={label: value - 0.1 for label, value in agreement.items()},
        pairwise_dice_per_class=dict(agreement),
        scores={"c_12": float(both + rng.normal(0, 0.1))},
    )
    dice = {"organ": float(organ), "mean": float(lesion)}
    return Known(row, case, float(organ + lesion) / 2, dice)


def cases(seed: int, n: int, prefix: str, *, shift: float = 0.0) -> list[Known]:
    rng = np.random.default_rng(seed)
    return [known(rng, f"{prefix}{i}", shift=shift) for i in range(n)]


FITTED = fit_judgement(cases(0, 40, "v"), cases(1, 30, "c"), LABELS, winners="w")


def test_predicted_dice_and_bound_of_mean_and_every_class() -> None:
    new = cases(2, 60, "n")
    rows = [FITTED.judge(case.row) for case in new]
    assert np.mean([abs(float(r.predicted_dice or 0) - c.dice) for r, c in zip(rows, new, strict=True)]) < 0.05
    for label in LABELS[1:]:
        found = [float(r.predicted_dice_per_class[label] or 0) for r in rows]
        true = [float(c.dice_per_class[label] or 0) for c in new]
        assert np.corrcoef(found, true)[0, 1] > 0.85
    for row in rows:
        assert row.dice_lower_bound is not None and row.predicted_dice is not None
        assert row.dice_lower_bound < row.predicted_dice
        assert row.dice_lower_bound == FITTED.targets[MEAN].bound.of(row.predicted_dice)
    measured = FITTED.measure(new)
    assert list(measured) == [MEAN, "class:organ", "class:mean"]
    assert all(found.as_expected and found.groups == 60 for found in measured.values())
    # the row's own share of bounds that hold is the one measured
    held = sum(c.dice >= float(r.dice_lower_bound or 0) for r, c in zip(rows, new, strict=True))
    assert measured[MEAN].held == held


def test_resplits_of_calibration_and_other_groups() -> None:
    calibration, others = cases(1, 30, "c"), cases(2, 60, "n")
    found = FITTED.remeasure(calibration, others)
    assert list(found) == [MEAN, "class:organ", "class:mean"]
    # rank 28 of 30 calibration groups: 28 / 31 of the others on average
    assert all(share == pytest.approx(28 / 31, abs=0.02) for share in found.values())
    assert FITTED.remeasure(calibration, []) == {}


def test_never_safe_cases_have_neither() -> None:
    case = cases(3, 1, "x")[0].row
    for flag in ("all_empty", "member_failed:unet"):
        row = FITTED.judge(replace(case, flag=flag))
        assert row.predicted_dice is row.dice_lower_bound is None
        assert set(row.predicted_dice_per_class.values()) == set(row.dice_lower_bound_per_class.values()) == {None}
        assert worst_first([FITTED.judge(case), row], "predicted_dice")[0] is row
        assert ranking_score(row, "dice_lower_bound") is None


def test_a_class_that_no_reading_has_is_no_agreement() -> None:
    case = cases(3, 1, "x")[0].row
    row = FITTED.judge(
        replace(
            case,
            relation_confidence_per_class=case.relation_confidence_per_class | {"organ": None},
            pairwise_dice_per_class=case.pairwise_dice_per_class | {"organ": None},
        )
    )
    assert row.predicted_dice_per_class["organ"] is row.dice_lower_bound_per_class["organ"] is None
    assert row.predicted_dice_per_class["mean"] is not None


def test_never_safe_cases_fit_nothing() -> None:
    wrong = [replace(c, row=replace(c.row, flag="all_empty"), dice=0.0) for c in cases(4, 30, "w")]
    again = fit_judgement([*cases(0, 40, "v"), *wrong], [*cases(1, 30, "c"), *wrong], LABELS, winners="w")
    assert again == FITTED


def test_too_few_cases_give_none_in_words_and_rows() -> None:
    few = fit_judgement(cases(0, 40, "v"), cases(1, 8, "c"), LABELS, winners="w")
    row = few.judge(cases(2, 1, "n")[0].row)
    assert row.predicted_dice is not None and row.dice_lower_bound is None
    assert few.measure(cases(2, 5, "n"))[MEAN].share is None
    none = fit_judgement(cases(0, 4, "v"), cases(1, 30, "c"), LABELS, winners="w")
    assert none.judge(row).predicted_dice is None
    assert none.shift([row]) is None
    with pytest.raises(UserError, match="between 0 and 1"):
        fit_judgement([], [], LABELS, winners="w", coverage=90)


def test_a_single_reading_is_judged_by_its_own_scores() -> None:
    def alone(case: Known) -> Known:
        empty: dict[str, float | None] = {"organ": None, "mean": None}
        row = replace(case.row, n_readings=1, flag="one_reading", relation_confidence=None, pairwise_dice=None)
        return replace(case, row=replace(row, relation_confidence_per_class=empty, pairwise_dice_per_class=empty))

    fitted = fit_judgement(
        list(map(alone, cases(0, 40, "v"))), list(map(alone, cases(1, 30, "c"))), LABELS, winners="w"
    )
    assert fitted.targets[MEAN].regressor is not None
    assert [own.name for own in fitted.targets[MEAN].regressor.scores] == ["c_12"]
    assert fitted.judge(alone(cases(2, 1, "n")[0]).row).dice_lower_bound is not None


def test_shifted_cases_are_told_of_and_like_ones_are_not() -> None:
    like, other = cases(5, 30, "n"), cases(5, 30, "n", shift=0.4)
    assert shift_warning(FITTED.shift([case.row for case in like])) is None
    text = shift_warning(FITTED.shift([case.row for case in other]))
    assert text is not None
    assert "these 30 cases" in text and "may not hold" in text
    assert shift_warning(None) is None
    assert shift_warning(Shift(statistic=0.3, p=0.02, wasserstein=0.1, n=30)) is None


def test_json() -> None:
    assert Judgement.from_json(FITTED.to_json()) == FITTED


def test_bounds_of_other_readings_hold_with_the_regressors_as_they_were() -> None:
    # readings that agree less at equal Dice, as those of more members do
    refitted = refit_bounds(FITTED, cases(5, 30, "c", shift=0.15), winners="deep", coverage=0.8)
    assert (refitted.winners, refitted.coverage) == ("deep", 0.8)
    assert {t: j.regressor for t, j in refitted.targets.items()} == {t: j.regressor for t, j in FITTED.targets.items()}
    new = cases(6, 100, "n", shift=0.15)
    share = {target: found.share for target, found in refitted.measure(new).items()}
    assert all(value is not None and 0.68 <= value <= 0.95 for value in share.values())
    assert FITTED.measure(new)[MEAN].share == 1.0  # what they predict is too low for the old bound to fail
    assert refitted.shift([case.row for case in new]) is not None
