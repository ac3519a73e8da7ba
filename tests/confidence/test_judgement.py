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
    assert again == replace(FITTED, unscored=30)  # only counted


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
        return single(case, absent=None)

    fitted = fit_judgement(
        list(map(alone, cases(0, 40, "v"))), list(map(alone, cases(1, 30, "c"))), LABELS, winners="w"
    )
    assert fitted.targets[MEAN].regressor is not None
    assert [own.name for own in fitted.targets[MEAN].regressor.scores] == ["c_12"]
    assert fitted.judge(alone(cases(2, 1, "n")[0]).row).dice_lower_bound is not None


def single(case: Known, *, absent: tuple[str, ...] | None) -> Known:
    """Return the case as one network alone reads it."""
    empty: dict[str, float | None] = {"organ": None, "mean": None}
    row = replace(case.row, n_readings=1, flag="one_reading", relation_confidence=None, pairwise_dice=None)
    row = replace(row, relation_confidence_per_class=empty, pairwise_dice_per_class=empty, absent=absent)
    return replace(case, row=row)


def test_a_single_reading_predicts_no_class_that_it_has_not() -> None:
    fitted = fit_judgement(
        [single(case, absent=()) for case in cases(0, 40, "v")],
        [single(case, absent=()) for case in cases(1, 30, "c")],
        LABELS,
        winners="w",
    )
    new = cases(2, 1, "n")[0]
    both = fitted.judge(single(new, absent=()).row)
    assert None not in (*both.predicted_dice_per_class.values(), *both.dice_lower_bound_per_class.values())
    missed = fitted.judge(single(new, absent=("organ",)).row)
    assert missed.predicted_dice_per_class["organ"] is missed.dice_lower_bound_per_class["organ"] is None
    assert missed.predicted_dice_per_class["mean"] == both.predicted_dice_per_class["mean"]
    assert missed.predicted_dice == both.predicted_dice
    unknown = fitted.judge(single(new, absent=None).row)
    assert set(unknown.predicted_dice_per_class.values()) == set(unknown.dice_lower_bound_per_class.values()) == {None}
    assert unknown.predicted_dice == both.predicted_dice
    # nor do such cases fit or calibrate the class
    without = [single(case, absent=("organ",)) for case in cases(1, 30, "c")]
    assert fit_judgement(without, without, LABELS, winners="w").targets["class:organ"].bound.groups == 0


def measured(case: Known, *, organ: float, components: int, foreground: float = 1.0) -> Known:
    """Return the case with a measured mask; its volume is in ml."""
    row = replace(
        case.row,
        foreground=foreground,
        volume_unit="ml",
        volume_per_class={"organ": organ, "mean": 1.0},
        components_per_class={"organ": components, "mean": 1},
    )
    return replace(case, row=row)


def test_size_and_parts_of_the_mask_predict_with_either_sign() -> None:
    # The Dice of the organ is 0.2 for each power of ten of its volume, less 0.1 for each part; agreement says nothing.
    rng = np.random.default_rng(0)
    known_cases = []
    for case in cases(0, 60, "v"):
        power, parts = float(rng.uniform(0, 3)), int(rng.integers(1, 4))
        dice = 0.3 + 0.2 * power - 0.1 * parts
        flat = {"organ": 0.5, "mean": 0.5}
        row = replace(case.row, pairwise_dice_per_class=flat, relation_confidence_per_class=flat, scores={})
        known_cases.append(
            measured(
                replace(case, row=row, dice_per_class={"organ": dice}),
                organ=10**power,
                components=parts,
                foreground=float(rng.uniform(0.9, 1)),  # says nothing, but an empty mask has it
            )
        )
    regressor = fit_judgement(known_cases, [], LABELS, winners="w").targets["class:organ"].regressor
    assert regressor is not None
    slopes = {own.name: own.coefficient / own.spread for own in regressor.scores}
    assert slopes == {
        "volume_ml": pytest.approx(0.2, abs=0.002),
        "components": pytest.approx(-0.1, abs=0.002),
        "foreground": pytest.approx(0.0, abs=0.05),
    }
    # a hundred ml in two parts; an empty mask has no logarithm and no parts, and is no safer for it
    row = measured(cases(2, 1, "n")[0], organ=100.0, components=2).row
    judgement = fit_judgement(known_cases, [], LABELS, winners="w")
    assert judgement.judge(row).predicted_dice_per_class["organ"] == pytest.approx(0.5, abs=0.01)
    nothing = measured(cases(2, 1, "n")[0], organ=0.0, components=0).row
    empty = judgement.judge(nothing).predicted_dice_per_class["organ"]
    assert empty == pytest.approx(0.0, abs=0.03)  # as about 1 ml in three parts, the least and the most seen
    smallest = measured(cases(2, 1, "n")[0], organ=1.0, components=1).row
    assert empty is not None and empty < (judgement.judge(smallest).predicted_dice_per_class["organ"] or 0)


def test_the_surest_voxel_may_speak_against_a_case() -> None:
    # The foreground probability falls with the Dice here; one that had to rise would be left out.
    rng = np.random.default_rng(1)
    known_cases = []
    for case in cases(0, 40, "v"):
        row = replace(case.row, pairwise_dice=0.5, relation_confidence=0.5, scores={})
        known_cases.append(replace(case, row=replace(row, foreground=1.2 - case.dice + float(rng.normal(0, 0.01)))))
    regressor = fit_judgement(known_cases, [], LABELS, winners="w").targets[MEAN].regressor
    assert regressor is not None
    (own,) = regressor.scores
    assert own.name == "foreground" and own.coefficient < -0.05
    assert regressor.error < 0.2 * regressor.error_of_mean


def test_a_shift_counts_patients_where_they_are_known() -> None:
    rows = [case.row for case in cases(5, 30, "n", shift=0.4)]
    apart = FITTED.shift(rows)
    assert apart is not None and (apart.n, apart.cases) == (30, 30)
    assert FITTED.shift(rows, [""] * 30) == apart  # not known: each is its own
    three = FITTED.shift(rows, [str(i % 3) for i in range(30)])
    assert three is not None and (three.n, three.cases) == (3, 30)
    text = shift_warning(replace(apart, n=3))
    assert text is not None and "these 30 cases (3 groups) differ" in text


def test_shifted_cases_are_told_of_and_like_ones_are_not() -> None:
    like, other = cases(5, 30, "n"), cases(5, 30, "n", shift=0.4)
    assert shift_warning(FITTED.shift([case.row for case in like])) is None
    text = shift_warning(FITTED.shift([case.row for case in other]))
    assert text is not None
    assert "these 30 cases" in text and "may not hold" in text
    assert shift_warning(None) is None
    assert shift_warning(Shift(statistic=0.3, p=0.02, wasserstein=0.1, n=30, cases=30)) is None


def test_a_batch_in_which_nobody_finds_anything_is_told_of() -> None:
    empty = [replace(case.row, flag="all_empty") for case in cases(5, 30, "n")]
    shift = FITTED.shift(empty)
    assert shift is not None and (shift.n, shift.unscored, shift.p) == (0, 30, None)
    text = shift_warning(shift)
    assert text is not None and text.startswith("30 of 30 groups have no case with a predicted Dice")
    again = fit_judgement(cases(1, 40, "v"), [Known(row, row.case, 0.0, {}) for row in empty], LABELS, winners="w")
    assert again.unscored == 30


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
