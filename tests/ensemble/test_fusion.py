import tracemalloc

import numpy as np
import pytest

from overread.ensemble.fusion import SoftVote


def test_mean_by_hand() -> None:
    vote = SoftVote()
    for values in ([0.9, 0.1], [0.6, 0.4], [0.3, 0.7]):
        vote.add(np.array(values, np.float32))
    np.testing.assert_allclose(vote.mean(), [0.6, 0.4], rtol=1e-6)


def test_weights_by_hand() -> None:
    vote = SoftVote()
    vote.add(np.array([1.0, 0.0], np.float32), weight=3)
    vote.add(np.array([0.0, 1.0], np.float32), weight=1)
    np.testing.assert_allclose(vote.mean(), [0.75, 0.25], rtol=1e-6)


def test_one_member_is_its_own_mean_and_stays_untouched() -> None:
    first = np.array([0.25, 0.75], np.float32)
    vote = SoftVote()
    vote.add(first)
    np.testing.assert_array_equal(vote.mean(), first)
    vote.add(np.array([0.75, 0.25], np.float32))
    assert first.tolist() == [0.25, 0.75]


def test_mistakes_are_refused() -> None:
    vote = SoftVote()
    with pytest.raises(ValueError, match="at least one member"):
        vote.mean()
    with pytest.raises(ValueError, match="above 0"):
        vote.add(np.zeros(2, np.float32), weight=0)
    vote.add(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"one shape \(2,\), but one gave \(1,\)"):
        vote.add(np.zeros(1, np.float32))


def test_memory_does_not_grow_with_members() -> None:
    probabilities = np.full((4, 64, 64, 16), 0.25, np.float32)
    tracemalloc.start()
    vote = SoftVote()
    for _ in range(20):
        vote.add(probabilities)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.1 * probabilities.nbytes
