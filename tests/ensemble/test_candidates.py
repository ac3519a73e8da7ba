from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.candidates import StoredPredictions, compare_choices, dice_of, dice_per_case, top_k
from overread.errors import UserError


def two_classes(foreground: list[float]) -> np.ndarray:
    p = np.array(foreground, np.float32)
    return np.stack([1 - p, p]).astype(np.float16)


def stored(
    root: Path, members: dict[str, list[list[float]]], truths: list[list[int]], groups: tuple[str, ...] | None = None
) -> StoredPredictions:
    """Write foreground probabilities by member and case, on lines of voxels."""
    cases = tuple(f"c{i}" for i in range(len(truths)))
    for name, predicted in members.items():
        (root / name).mkdir(parents=True)
        for case, values in zip(cases, predicted, strict=True):
            np.save(root / name / f"{case}.npy", two_classes(values))
    (root / "truth").mkdir()
    for case, truth in zip(cases, truths, strict=True):
        np.save(root / "truth" / f"{case}.npy", np.array(truth, np.uint8))
    return StoredPredictions(root, tuple(members), cases, groups or cases)


TRUTHS = [[1, 1, 0, 0], [1, 0, 0, 0]]
MEMBERS = {
    "a": [[0.9, 0.9, 0.6, 0.1], [0.9, 0.1, 0.1, 0.1]],  # Dice 0.8 and 1
    "b": [[0.9, 0.2, 0.1, 0.1], [0.8, 0.6, 0.1, 0.1]],  # Dice 2/3 and 2/3
}


def test_dice_of_members_and_votes(tmp_path: Path) -> None:
    predictions = stored(tmp_path, MEMBERS, TRUTHS)
    assert dice_per_case(predictions, {"a": 1}) == pytest.approx([0.8, 1.0])
    assert dice_per_case(predictions, {"b": 1}) == pytest.approx([2 / 3, 2 / 3])
    # means 0.9 0.55 0.35 0.1 and 0.85 0.35 0.1 0.1: both right
    assert dice_per_case(predictions, {"a": 1, "b": 1}) == pytest.approx([1.0, 1.0])
    # three votes of b against one of a: 0.375 at the second voxel, 0.475 at that of the second case
    assert dice_per_case(predictions, {"a": 1, "b": 3}) == pytest.approx([2 / 3, 1.0])


def test_dice_of_a_class_absent_in_both_is_one() -> None:
    probabilities = np.array([[0.9, 0.2], [0.1, 0.8], [0.0, 0.0]], np.float32)
    truth = np.array([0, 1])
    assert (dice_of(probabilities, truth, 1), dice_of(probabilities, truth, 2)) == (1.0, 1.0)
    assert dice_of(probabilities, np.array([0, 2]), 2) == 0.0
    assert dice_of(probabilities, np.array([0, 2]), None) == 0.0


def test_predictions_are_not_read_into_memory(tmp_path: Path) -> None:
    predictions = stored(tmp_path, MEMBERS, TRUTHS)
    assert isinstance(predictions.probabilities("a", "c0"), np.memmap)
    assert isinstance(predictions.truth("c0"), np.memmap)


def test_comparison_against_best_single_top_k_and_all(tmp_path: Path) -> None:
    predictions = stored(tmp_path, MEMBERS, TRUTHS)
    assert top_k(predictions, 1) == {"a": 1.0}
    rows = compare_choices(predictions, {"all": {"a": 1, "b": 1}}, cost={"a": 2.0, "b": 3.0})
    assert [row.name for row in rows] == ["best single", "all"]
    assert rows[0].votes == {"a": 1.0}
    assert [row.dice.mean for row in rows] == pytest.approx([0.9, 1.0])
    assert [row.against_single.mean for row in rows] == pytest.approx([0.0, 0.1])
    assert [row.cost for row in rows] == [2.0, 5.0]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are 0, 1 and 1"):
        StoredPredictions(tmp_path, (), ("c",), ("c",))
    predictions = StoredPredictions(tmp_path, ("a",), ("c",), ("c",))
    with pytest.raises(UserError, match="must hold a prediction"):
        predictions.truth("c")
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "c.npy", np.array([{"no": "pickle"}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="must hold a prediction"):
        predictions.probabilities("a", "c")
