import tracemalloc

import numpy as np
import pytest

from overread.ensemble.fusion import FUSIONS, MajorityVote, SoftVote, StapleVote
from overread.metrics.staple import BLOCK, staple


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


def probabilities(*foreground: float) -> np.ndarray:
    """Two classes on a line of voxels."""
    p = np.array(foreground, np.float32)
    return np.stack([1 - p, p])


def test_majority_is_of_masks_not_of_probabilities() -> None:
    members = [probabilities(0.6, 0.0), probabilities(0.6, 0.9), probabilities(0.0, 0.4)]
    soft, majority = SoftVote(), MajorityVote()
    for member in members:
        soft.add(member)
        majority.add(member)
    assert soft.mean().argmax(0).tolist() == [0, 0]  # means 0.4 and 0.433
    assert majority.mean().argmax(0).tolist() == [1, 0]  # two of three; one of three
    np.testing.assert_allclose(majority.mean(), [[1 / 3, 2 / 3], [2 / 3, 1 / 3]], rtol=1e-6)


def test_majority_by_weight_and_ties_to_the_background() -> None:
    vote = MajorityVote()
    vote.add(probabilities(0.9), weight=1.0)
    vote.add(probabilities(0.1), weight=1.0)
    assert vote.mean().argmax(0).tolist() == [0]
    vote.add(probabilities(0.9), weight=0.5)
    np.testing.assert_allclose(vote.mean()[1], [0.6], rtol=1e-6)
    assert vote.mean().argmax(0).tolist() == [1]


def test_weights_per_class_and_sums_of_one() -> None:
    # first member decides class 1, second class 2, both the background
    first = np.array([[0.2], [0.5], [0.3]], np.float32)
    second = np.array([[0.4], [0.2], [0.4]], np.float32)
    vote = SoftVote()
    vote.add(first, np.array([0.5, 1.0, 0.0], np.float32))
    vote.add(second, np.array([0.5, 0.0, 1.0], np.float32))
    np.testing.assert_allclose(vote.mean(), np.array([[0.3], [0.5], [0.4]]) / 1.2, rtol=1e-6)
    alone = SoftVote()
    alone.add(first, np.array([0.5, 1.0, 0.0], np.float32))  # nobody votes for class 2
    np.testing.assert_allclose(alone.mean(), np.array([[0.2], [0.5], [0.0]]) / 0.7, rtol=1e-6)


def test_staple_trusts_members_that_others_confirm() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=900) < 0.3).astype(np.float32)
    vote, majority = StapleVote(), MajorityVote()
    for noise in (0.05, 0.05, 0.5, 0.5, 0.5):
        member = probabilities(*np.where(rng.uniform(size=900) < noise, 1 - truth, truth))
        vote.add(member)
        majority.add(member)
    found = vote.mean()
    np.testing.assert_allclose(found.sum(0), 1.0, rtol=1e-5)
    assert (found.argmax(0) == truth).mean() > (majority.mean().argmax(0) == truth).mean() + 0.04


def test_staple_of_several_classes() -> None:
    ids = np.array([[0, 1, 2, 2, 0, 0], [0, 1, 2, 2, 0, 0], [0, 1, 2, 1, 0, 0]])
    vote = StapleVote()
    for own in ids:
        vote.add((np.arange(3)[:, None] == own).astype(np.float32))
    assert vote.mean().argmax(0).tolist() == [0, 1, 2, 2, 0, 0]


def test_staple_is_that_of_each_class_against_the_rest() -> None:
    """Blocks, odd sizes and more members than one byte has bits: against `metrics.staple` of whole masks."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, BLOCK + 13)
    members = [np.where(rng.uniform(size=truth.size) < 0.1, rng.integers(0, 3, truth.size), truth) for _ in range(9)]
    vote = StapleVote()
    for ids in members:
        vote.add((np.arange(3)[:, None] == ids).astype(np.float32))
    own = [staple(np.stack([ids == k for ids in members])).probabilities for k in (1, 2)]
    expected = np.stack([(1 - own[0]) * (1 - own[1]), *own])
    np.testing.assert_allclose(vote.mean(), expected / expected.sum(0), rtol=1e-4, atol=1e-7)


def test_staple_holds_bits_and_the_result() -> None:
    """Five members, two classes: 8 bytes of the result and 5 bits per voxel, and blocks."""
    voxels = 1 << 20
    rng = np.random.default_rng(0)
    drawn = rng.uniform(size=voxels).astype(np.float32)
    read = np.stack([1 - drawn, drawn])
    tracemalloc.start()
    vote = StapleVote()
    for _ in range(5):
        vote.add(read)
        np.subtract(1, read, out=read)
    found = vote.mean()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * voxels
    # three of five, the first, third and fifth, were the same: they outvote the others
    assert np.array_equal(found[1] > 0.5, drawn > 0.5)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_fusion_keeps_one_member_and_refuses_mistakes(name: str) -> None:
    vote = FUSIONS[name]()
    with pytest.raises(ValueError, match="at least one member"):
        vote.mean()
    vote.add(probabilities(0.9, 0.2))
    assert vote.mean().argmax(0).tolist() == [1, 0]
    with pytest.raises(ValueError, match="one shape"):
        vote.add(probabilities(0.9))
