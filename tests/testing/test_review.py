"""The made-up report gets better from case to case, but for its first, which is flagged."""

from overread.testing.review import HOSTILE, made_report


def test_cases_get_better() -> None:
    rows = made_report(6, side=16, steps=3).cases
    assert [row.confidence.case for row in rows] == [HOSTILE, *(f"case_{at:04d}" for at in range(1, 6))]
    dice = [row.dice or 0.0 for row in rows]
    assert dice == sorted(dice)
    assert len(set(dice)) == 3
    assert [bool(row.confidence.flag) for row in rows] == [True] + [False] * 5


def test_an_unlabelled_report_has_no_truth() -> None:
    data = made_report(2, side=16, labelled=False)
    assert [row.dice for row in data.cases] == [None, None]
    assert data.coverage == {}
