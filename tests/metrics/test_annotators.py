import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.annotators import annotator_agreement

A, B, C = np.array([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]], bool)
NONE = np.zeros(8, bool)


def test_agreement_by_hand():
    found = annotator_agreement(B, np.stack([A, B, C]))
    assert found.each == pytest.approx((6 / 7, 1, 6 / 8))
    assert found.mean == pytest.approx((6 / 7 + 1 + 3 / 4) / 3)
    assert found.consensus == pytest.approx(6 / 7)  # A: where two of three agree
    assert found.between == pytest.approx((6 / 7 + 8 / 9 + 6 / 8) / 3)
    # d(B, .) = 1/4, 0, 2/5; d(A, C) = 1/5
    across, within = (1 / 4 + 2 / 5) / 3, 2 * (1 / 4 + 2 / 5 + 1 / 5) / 9
    assert found.energy_distance == pytest.approx(2 * across - within)


def test_degenerate_cases():
    alone = annotator_agreement(A, A[None])
    assert (alone.mean, alone.consensus, alone.energy_distance, alone.between) == (1, 1, 0, None)
    nothing = annotator_agreement(NONE, np.stack([NONE, NONE]))
    assert (nothing.mean, nothing.consensus, nothing.energy_distance, nothing.between) == (1, 1, 0, 1)
    assert annotator_agreement(A, np.stack([NONE, NONE])).each == (0, 0)
    apart = annotator_agreement(NONE, np.stack([A, np.roll(A, 4)]))
    assert (apart.consensus, apart.each, apart.between) == (None, (0, 0), 0)  # they share nothing: no consensus
    with pytest.raises(UserError, match="at least one annotation"):
        annotator_agreement(A, np.zeros((0, 8), bool))
