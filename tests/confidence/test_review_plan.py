"""Reviewing by hand, worked out on four cases."""

from __future__ import annotations

import pytest

from overread.confidence.ranking import worst_first
from overread.confidence.review_plan import review_plan
from overread.records import CaseConfidence


def row(
    case: str, confidence: float | None, flag: str = "", predicted: float | None = None, foreground: float = 0.5
) -> CaseConfidence:
    return CaseConfidence(
        case=case,
        n_readings=3,
        flag=flag,
        foreground=foreground,
        relation_confidence=confidence,
        pairwise_dice=confidence,
        relation_confidence_per_class={},
        pairwise_dice_per_class={},
        predicted_dice=predicted,
    )


ROWS = [row("a", 0.9), row("b", 0.2), row("c", 0.5), row("d", 0.99, flag="all_empty")]


def test_the_rest_gets_better_and_failures_are_caught() -> None:
    plan = review_plan(ROWS, [0.9, 0.3, 0.8, 0.0], "relation_confidence")
    assert plan is not None
    assert (plan.basis, plan.n, plan.failures) == ("true", 4, 2)
    assert [plan.reviewed[x] for x in (0, 24, 25, 50, 75, 100)] == [0, 0, 1, 2, 3, 4]
    assert [plan.rest_dice[x] for x in (0, 25, 50, 75, 100)] == [
        pytest.approx(0.5),  # (0.9 + 0.3 + 0.8 + 0) / 4
        pytest.approx(2 / 3),  # the flagged case first, however sure it looks
        pytest.approx(0.85),
        pytest.approx(0.9),
        None,
    ]
    assert [plan.caught[x] for x in (0, 25, 50, 75, 100)] == pytest.approx([0, 1, 2, 2, 2])


def test_tied_cases_count_in_expectation() -> None:
    plan = review_plan([row("a", 0.5), row("b", 0.5)], [1.0, 0.2], "relation_confidence")
    assert plan is not None
    assert plan.rest_dice[50] == pytest.approx(0.6)
    assert plan.caught[50] == pytest.approx(0.5)


def test_flagged_cases_are_reviewed_in_the_order_shown() -> None:
    # All masks empty: two overlooked findings of high foreground, two normal cases; then a sure case and a failure.
    flagged = [
        row(name, None, "all_empty", foreground=p) for name, p in zip("abcd", (0.1, 0.45, 0.4, 0.2), strict=True)
    ]
    rows, dice = [*flagged, row("e", 0.9), row("f", 0.3)], [1.0, 0.0, 0.0, 1.0, 0.9, 0.2]
    plan = review_plan(rows, dice, "relation_confidence")
    assert plan is not None
    shown = [{r.case: d for r, d in zip(rows, dice, strict=True)}[r.case] for r in worst_first(rows)]
    assert shown == [0.0, 0.0, 1.0, 1.0, 0.2, 0.9]
    shares = (17, 34, 50, 67, 84, 100)  # 1 to 6 cases
    assert [plan.reviewed[x] for x in shares] == [1, 2, 3, 4, 5, 6]
    assert [plan.caught[x] for x in shares] == pytest.approx([1, 2, 2, 2, 3, 3])
    assert plan.rest_dice[34] == pytest.approx((1 + 1 + 0.2 + 0.9) / 4)


def test_only_cases_with_truth_count_where_any_has_it() -> None:
    plan = review_plan(ROWS, [0.9, None, 0.5, None], "relation_confidence", failure_dice=0.6)
    assert plan is not None
    assert (plan.n, plan.failures, plan.rest_dice[50], plan.caught[50]) == (2, 1, pytest.approx(0.9), pytest.approx(1))


def test_without_truth_the_predicted_dice_counts_and_a_case_without_it_is_a_failure() -> None:
    rows = [row("a", 0.9, predicted=0.9), row("b", 0.2, predicted=0.5), row("d", 0.99, flag="all_empty")]
    plan = review_plan(rows, [None] * 3, "relation_confidence")
    assert plan is not None
    assert (plan.basis, plan.failures) == ("predicted", 2)
    assert plan.rest_dice[0] == pytest.approx(0.7)  # of the two that have one
    assert (plan.rest_dice[67], plan.caught[67]) == (pytest.approx(0.9), pytest.approx(2))
    only = review_plan([*rows[1:]], [None] * 2, "predicted_dice")
    assert only is not None
    assert only.caught[50] == pytest.approx(1)  # the flagged one is reviewed first by any score


def test_nothing_known_is_no_plan() -> None:
    assert review_plan(ROWS, [None] * 4, "relation_confidence") is None
    with pytest.raises(ValueError, match="4 rows and 1 Dice"):
        review_plan(ROWS, [0.5], "relation_confidence")


def test_a_score_that_some_rows_lack_puts_them_first() -> None:
    from dataclasses import replace

    rows = [replace(ROWS[0], scores={"c_12": 0.1}), ROWS[1]]
    plan = review_plan(rows, [0.9, 0.3], "c_12")
    assert plan is not None
    assert plan.rest_dice[50] == pytest.approx(0.9)
