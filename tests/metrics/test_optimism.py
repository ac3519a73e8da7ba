"""The luck of the best of many."""

from __future__ import annotations

import numpy as np
import pytest

from overread.metrics.optimism import expected_by_rank


def test_two_groups_by_hand() -> None:
    # Candidates a = (1, 0) and b = (0, 0.8) on two cases. The draws that leave a case out are (first, first) and
    # (second, second), equally likely: the first ranks a before b and measures 0 and 0.8 on the second case, the other
    # ranks b before a and measures 0 and 1.
    values = np.array([[1.0, 0.0], [0.0, 0.8]])
    found = expected_by_rank(values, ["x", "y"], resamples=4000)
    assert found is not None
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.9, abs=0.01)


def test_a_candidate_that_is_always_better_owes_nothing_to_luck() -> None:
    cases = np.random.default_rng(0).uniform(0.4, 0.8, 40)
    found = expected_by_rank(np.stack([cases, cases + 0.1], axis=1), list(range(40)))
    assert found is not None
    np.testing.assert_allclose(found, [cases.mean() + 0.1, cases.mean()], atol=0.01)


def test_the_best_of_equals_is_lucky() -> None:
    # 30 candidates of the same true mean 0.7: the best is expected at about 0.7, whatever it reached
    values = 0.7 + np.random.default_rng(1).normal(0, 0.1, (20, 30))
    found = expected_by_rank(values, list(range(20)))
    assert found is not None
    best = values.mean(0).max()
    assert best > 0.73
    assert abs(found[0] - 0.7) < 0.5 * (best - 0.7)


def test_cases_of_one_patient_say_nothing_of_others() -> None:
    assert expected_by_rank(np.ones((3, 2)), ["p", "p", "p"]) is None
    assert expected_by_rank(np.ones((3, 0)), ["p", "q", "r"]) is None
