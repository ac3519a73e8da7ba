"""STAPLE: one step by hand, degenerate cases, and a fourth opinion that three good ones outvote."""

import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.staple import BLOCK, blocks, code_type, fit_trust, staple

THREE = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)


def test_one_step_by_hand():
    # Half of all decisions are 1, so the prior cancels; with p = q = 3/4 each vote is worth odds of 3: of 3, 2, 1 and
    # 0 votes the odds are 27, 3, 1/3 and 1/27, and W = 27/28, 3/4, 1/4 and 1/28, together 2.
    found = staple(THREE, start=0.75, iterations=1)
    p = np.array([(27 / 28 + 3 / 4) / 2, (27 / 28 + 3 / 4) / 2, (27 / 28 + 1 / 4) / 2])
    assert found.sensitivity == pytest.approx(p)
    assert found.specificity == pytest.approx(p)  # by symmetry
    assert p == pytest.approx(np.array([6 / 7, 6 / 7, 17 / 28]))
    # the odds of the next step: 2 votes of the good ones, and the third's against
    odds = 6**2 * (11 / 17)
    assert found.probabilities[1] == pytest.approx(odds / (1 + odds))
    assert found.probabilities[0] == pytest.approx(6**2 * (17 / 11) / (1 + 6**2 * (17 / 11)))
    assert found.iterations == 1


def test_two_who_agree_outvote_the_third():
    found = staple(THREE)
    assert found.mask.tolist() == [True, True, False, False]
    assert found.sensitivity == pytest.approx(np.array([1, 1, 0.5]), abs=1e-4)
    assert found.specificity == pytest.approx(np.array([1, 1, 0.5]), abs=1e-4)


@pytest.mark.parametrize("mask", [[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("annotators", [1, 2, 5])
def test_unanimous_annotators_are_right(mask, annotators):
    said = np.array([mask] * annotators, bool).reshape(annotators, 2, 2)
    found = staple(said)
    assert np.array_equal(found.mask, said[0])
    assert np.array_equal(found.probabilities, said[0].astype(float))
    assert found.sensitivity.tolist() == found.specificity.tolist() == [1.0] * annotators


def test_one_empty_annotator_does_not_empty_the_consensus():
    square = np.zeros((10, 10), bool)
    square[2:6, 2:6] = True
    found = staple(np.stack([square, np.zeros_like(square), square]))
    assert np.array_equal(found.mask, square)
    assert found.sensitivity[1] == pytest.approx(0, abs=1e-6) and found.specificity[1] == pytest.approx(1)


def test_the_reliable_annotators_are_told_from_the_careless_one():
    rng = np.random.default_rng(0)
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    errors = np.array([0.02, 0.02, 0.02, 0.3]).reshape(4, 1, 1)
    said = truth ^ (rng.random((4, 40, 40)) < errors)
    found = staple(said)
    assert (found.mask != truth).mean() < 0.01
    assert found.sensitivity == pytest.approx(1 - errors.ravel(), abs=0.06)
    assert found.specificity == pytest.approx(1 - errors.ravel(), abs=0.06)


def test_patterns_give_what_voxels_give():
    rng = np.random.default_rng(1)
    said = rng.random((3, 6, 7)) < 0.4
    found = staple(said, start=0.9, iterations=7)
    decisions = said.reshape(3, -1)
    prior, p, q = decisions.mean(), np.full(3, 0.9), np.full(3, 0.9)

    def weights():
        a = prior * np.where(decisions, p[:, None], 1 - p[:, None]).prod(0)
        b = (1 - prior) * np.where(decisions, 1 - q[:, None], q[:, None]).prod(0)
        return a / (a + b)

    for _ in range(7):
        w = weights()
        p, q = (w * decisions).sum(1) / w.sum(), ((1 - w) * ~decisions).sum(1) / (1 - w).sum()
    assert found.sensitivity == pytest.approx(p) and found.specificity == pytest.approx(q)
    assert found.probabilities.ravel() == pytest.approx(weights())


def test_decisions_of_many_annotators_fit_the_smallest_number():
    assert [code_type(n).itemsize for n in (1, 8, 9, 16, 17, 33, 62)] == [1, 1, 2, 2, 4, 8, 8]
    with pytest.raises(UserError, match="at most 62"):
        code_type(63)
    mask = np.array([True, False])
    assert staple(np.stack([mask] * 61 + [~mask])).mask.tolist() == [True, False]


def test_blocks_cover_all_voxels_once():
    assert [*blocks(BLOCK + 1)] == [slice(0, BLOCK), slice(BLOCK, BLOCK + 1)]
    assert [*blocks(0)] == [slice(0, 0)]
    trust = fit_trust(iter([np.array([3, 0, 1], np.uint8), np.array([0, 3, 0], np.uint8)]), 2)
    assert trust.distinct.tolist() == [0, 1, 3]
    whole = staple(np.array([[1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0]], bool))
    assert trust.probabilities(np.array([3, 0, 1], np.uint8)).tolist() == whole.probabilities[:3].tolist()


def test_no_annotation_is_an_error():
    with pytest.raises(UserError, match="at least one annotation"):
        staple(np.zeros((0, 4, 4), bool))
