import pytest

from overread.confidence.ranking import known_score, ranking_score, review_levels, score_of, worst_first
from overread.errors import UserError
from overread.records import CaseConfidence


def row(
    case: str, score: float | None, flag: str = "", foreground: float = 1.0, other: float | None = None
) -> CaseConfidence:
    return CaseConfidence(
        case=case,
        n_readings=3,
        flag=flag,
        foreground=foreground,
        relation_confidence=score,
        pairwise_dice=other,
        relation_confidence_per_class={},
        pairwise_dice_per_class={},
        scores={"c_12": other},
    )


def test_flagged_first_by_foreground_then_rising_score() -> None:
    rows = [
        row("safe", 0.9),
        row("clear empty", None, "all_empty", foreground=0.1),
        row("doubtful", 0.2),
        row("overlooked?", None, "all_empty", foreground=0.45),
        row("failed", 1.0, "member_failed:unet", foreground=0.3),
    ]
    assert [r.case for r in worst_first(rows)] == ["overlooked?", "failed", "clear empty", "doubtful", "safe"]


def test_a_case_that_is_never_safe_comes_before_those_that_nothing_ranks() -> None:
    rows = [
        row("marked", None, "one_reading", foreground=1.0),
        row("empty", None, "all_empty;one_reading", foreground=0.1),
    ]
    assert [r.case for r in worst_first(rows)] == ["empty", "marked"]


def test_the_first_score_that_ranks_a_case_is_known() -> None:
    names = ("relation_confidence", "pairwise_dice")
    assert known_score([row("a", 0.5, other=0.5)], names) == "relation_confidence"
    assert known_score([row("a", None, "one_reading"), row("b", None, other=0.5)], names) == "pairwise_dice"
    assert known_score([row("a", 0.5, "member_failed:x", other=0.5)], names) == "relation_confidence"
    assert known_score([], names) == "relation_confidence"


def test_order_of_ties_does_not_depend_on_the_input() -> None:
    rows = [row("b", 0.5), row("a", 0.5)]
    assert [r.case for r in worst_first(rows)] == [r.case for r in worst_first(rows[::-1])] == ["a", "b"]


def test_rows_that_the_order_cannot_tell_apart_share_a_level() -> None:
    empty = [row(name, None, "all_empty", foreground=p) for name, p in (("a", 0.1), ("b", 0.4), ("c", 0.1))]
    assert review_levels([row("d", 0.5), *empty, row("e", 0.5), row("f", 0.2)]) == [3, 1, 0, 1, 3, 2]


def test_a_score_that_some_rows_lack_puts_them_first_and_one_that_all_lack_is_an_error() -> None:
    rows = [row("a", 0.1, other=0.9), CaseConfidence.from_json(row("b", 0.2).to_json() | {"scores": {}})]
    assert [r.case for r in worst_first(rows, "c_12")] == ["b", "a"]
    with pytest.raises(UserError, match="unknown score 'c_99'"):
        worst_first(rows, "c_99")


def test_any_score_ranks() -> None:
    rows = [row("a", 0.1, other=0.9), row("b", 0.2, other=0.3), row("c", 0.3, other=None)]
    assert [r.case for r in worst_first(rows, "pairwise_dice")] == ["c", "b", "a"]
    assert [r.case for r in worst_first(rows, "c_12")] == ["c", "b", "a"]


def test_scores_by_name() -> None:
    assert score_of(row("a", 0.1, other=0.9), "c_12") == 0.9
    assert score_of(row("a", 1.0, "member_failed:unet")) == 1.0
    assert ranking_score(row("a", 1.0, "member_failed:unet")) is None
    with pytest.raises(UserError, match="unknown score 'c_99': choose one of c_12, dice_lower_bound, pairwise_dice"):
        score_of(row("a", 0.1), "c_99")


def test_no_rows() -> None:
    assert worst_first([]) == []


def test_a_single_reading_ranks_by_what_it_says_of_itself() -> None:
    alone = row("a", None, "one_reading", other=0.8)
    assert ranking_score(alone) is None
    assert ranking_score(alone, "c_12") == 0.8
    assert ranking_score(row("a", None, "member_failed:unet;one_reading", other=0.8), "c_12") is None
