from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.candidates import StoredPredictions, dice_per_case, read_alone
from overread.ensemble.contribution import ErrorCorrelation, contributions, error_correlation

TRUTH = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]], np.uint8)
WRONG = {  # voxels at which a member is wrong, per case
    "a": ({1, 2}, {3}),
    "copy": ({1, 2}, {3}),
    "half": ({2, 5}, set[int]()),
    "right": (set[int](), set[int]()),
}

STRENGTH = {"a": 1.0, "copy": 1.0, "half": 0.9, "right": 0.8}
"""No two members may tie, or rounding decides."""


@pytest.fixture
def predictions(tmp_path: Path) -> StoredPredictions:
    for name, cases in WRONG.items():
        (tmp_path / name).mkdir()
        for i, wrong in enumerate(cases):
            p = np.where(np.isin(np.arange(8), list(wrong)), 1 - TRUTH[i], TRUTH[i]) * 0.8 + 0.1
            p = 0.5 + (p - 0.5) * STRENGTH[name]
            np.save(tmp_path / name / f"c{i}.npy", np.stack([1 - p, p]).astype(np.float32))
    (tmp_path / "truth").mkdir()
    for i, truth in enumerate(TRUTH):
        np.save(tmp_path / "truth" / f"c{i}.npy", truth)
    return StoredPredictions(tmp_path, tuple(WRONG), ("c0", "c1"), ("p", "q"))


def test_contribution_is_what_is_lost_without_the_member(predictions: StoredPredictions) -> None:
    votes = {"a": 1.0, "half": 1.0, "right": 1.0}
    rows = contributions(predictions, votes, read_alone(predictions))
    assert [(row.member, row.votes) for row in rows] == [("a", 1.0), ("half", 1.0), ("right", 1.0)]
    together = np.array(dice_per_case(predictions, votes))
    for row in rows:
        rest = {member: weight for member, weight in votes.items() if member != row.member}
        expected = together - dice_per_case(predictions, rest)
        assert row.contribution.mean == pytest.approx(float(expected.mean()))
        assert row.contribution.n == 2
    # case 0: a misses one of two and adds one: Dice 2 / 4; case 1: one found, one added: 2 / 3
    assert rows[0].alone.mean == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert rows[2].contribution.mean is not None and rows[2].contribution.mean > 0


def test_an_ensemble_of_one_has_nothing_to_compare_with(predictions: StoredPredictions) -> None:
    (row,) = contributions(predictions, {"half": 2.0}, read_alone(predictions))
    assert (row.contribution.mean, row.contribution.n) == (None, 0)
    assert row.alone.n == 2


def test_correlation_of_errors_by_hand(predictions: StoredPredictions) -> None:
    found = error_correlation(read_alone(predictions))
    voxel = dict(zip(found.members, found.by_voxel, strict=True))
    # wrong at 3 and 2 of 16 voxels, at one together: (1/16 - 3/16 2/16) / sqrt(3/16 13/16 2/16 14/16)
    phi = (1 / 16 - 6 / 256) / np.sqrt(3 * 13 * 2 * 14 / 16**4)
    assert voxel["a"] == pytest.approx((1.0, 1.0, phi, None))
    assert found.by_voxel == tuple(zip(*found.by_voxel, strict=True))
    # two cases: risks of a rise from 1/3 to 1/2 where those of half do too
    case = dict(zip(found.members, found.by_case, strict=True))
    assert case["a"] == pytest.approx((1.0, 1.0, 1.0, None))
    assert case["right"] == (None,) * 4
    assert ErrorCorrelation.from_json(found.to_json()) == found


def test_some_members_only(predictions: StoredPredictions) -> None:
    found = error_correlation(read_alone(predictions))
    some = found.among(["half", "a"])
    assert some.members == ("half", "a")
    assert some.by_voxel[0] == (found.by_voxel[2][2], found.by_voxel[2][0])


def test_mean_correlation_with_the_others(predictions: StoredPredictions) -> None:
    found = error_correlation(read_alone(predictions))
    phi = found.by_voxel[0][2]
    assert phi is not None
    # of a: 1 with its copy, phi with half, none with one that is always right
    assert found.with_others("a") == pytest.approx((1.0 + phi) / 2)
    assert found.with_others("right") is None
    assert found.among(["a"]).with_others("a") is None
