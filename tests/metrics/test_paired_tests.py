"""Wilcoxon's test by hand, and its correction."""

from __future__ import annotations

import pytest

from overread.metrics.paired_tests import compare_pairs, holm


def test_five_cases_on_one_side() -> None:
    # All 5 differences are positive: of 2^5 equally likely signs, 1 is as extreme, and 1 on the other side: p = 2 / 32
    better = {f"c{i}": 0.5 + 0.1 * i for i in range(5)}
    worse = {case: value - 0.01 * (i + 1) for i, (case, value) in enumerate(better.items())}
    (row,) = compare_pairs({"a": better, "b": worse})
    assert (row.first, row.second, row.n) == ("a", "b", 5)
    assert row.difference == pytest.approx(0.03)
    assert row.p == pytest.approx(2 / 32)
    assert row.p_holm == row.p


def test_cases_of_a_patient_are_one_observation() -> None:
    a = {"p1x": 0.9, "p1y": 0.7, "p2": 0.8}
    b = {"p1x": 0.8, "p1y": 0.6, "p2": 0.6}
    (row,) = compare_pairs({"a": a, "b": b}, {"p1x": "p1", "p1y": "p1", "p2": "p2"})
    assert row.n == 2
    assert row.difference == pytest.approx((0.1 + 0.2) / 2)
    assert row.p == pytest.approx(0.5)  # 2 of 2^2 signs


def test_pairs_are_compared_on_shared_cases_and_equal_ones_do_not_differ() -> None:
    a = {"x": 0.5, "y": 0.6, "z": 0.7}
    rows = compare_pairs({"a": a, "same": dict(a), "one": {"x": 0.1}, "none": {}})
    found = {(row.first, row.second): (row.n, row.p, row.p_holm) for row in rows}
    assert len(rows) == 6
    assert found["a", "same"] == (3, 1.0, 1.0)
    assert found["a", "one"] == (1, None, None)
    assert found["a", "none"] == (0, None, None)


def test_holm_by_hand() -> None:
    # sorted 0.01 x 4, 0.02 x 3, 0.02 x 2 (kept at 0.06), 0.5 x 1
    assert holm([0.02, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
