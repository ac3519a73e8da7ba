from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.candidates import (
    StoredPredictions,
    compare_choices,
    cost_of,
    dice_of,
    dice_per_case,
    read_alone,
    top_k,
)
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
    alone = read_alone(predictions)
    assert top_k(alone, 1) == {"a": 1.0}
    costs = {"a": {"a": 2.0}, "b": {"b": 3.0}}
    rows = compare_choices(predictions, {"all": {"a": 1, "b": 1}}, alone, costs)
    assert [row.name for row in rows] == ["best single", "all"]
    assert rows[0].votes == {"a": 1.0}
    assert [row.dice.mean for row in rows] == pytest.approx([0.9, 1.0])
    assert [row.against_single.mean for row in rows] == pytest.approx([0.0, 0.1])
    assert [row.cost for row in rows] == [2.0, 5.0]


def test_every_member_is_read_once_for_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = stored(tmp_path, MEMBERS, TRUTHS)
    alone = read_alone(predictions)
    assert alone.of("a") == pytest.approx([0.8, 1.0])
    assert alone.of("b") == pytest.approx([2 / 3, 2 / 3])
    # a is wrong at voxel 2 of the first case; b at voxel 1 of both
    assert (alone.wrong.tolist(), alone.voxels) == ([[1, 0], [0, 2]], 8)
    monkeypatch.setattr(StoredPredictions, "probabilities", lambda *_: pytest.fail("is known"))
    assert top_k(alone, 2) == {"a": 1.0, "b": 1.0}
    (row,) = compare_choices(predictions, {}, alone)
    assert (row.name, row.votes, row.dice.mean) == ("best single", {"a": 1.0}, pytest.approx(0.9))


def test_parts_are_paid_once() -> None:
    costs = {"main": {"net": 100.0}, "scale": {"net": 100.0}, "level": {"net level": 7.0}, "person": {}}
    assert cost_of(["main", "scale"], costs) == 100.0
    assert cost_of(["scale", "level", "person"], costs) == 107.0
    assert cost_of([], costs) == 0.0


def test_the_top_k_keep_to_the_budget(tmp_path: Path) -> None:
    """Dice 0.9, 2/3 and 0: the second does not fit beside the first, the third does."""
    wrong = [[0.1, 0.1, 0.9, 0.9], [0.1, 0.9, 0.9, 0.9]]
    predictions = stored(tmp_path, MEMBERS | {"c": wrong}, TRUTHS)
    alone = read_alone(predictions)
    costs = {"a": {"a": 5.0}, "b": {"b": 4.0}, "c": {"c": 3.0}}
    assert list(top_k(alone, 3)) == ["a", "b", "c"]
    assert list(top_k(alone, 3, costs, 8.0)) == ["a", "c"]
    assert list(top_k(alone, 3, costs, 4.5)) == ["b"]
    shared = {"a": {"net": 5.0}, "b": {"net": 5.0}, "c": {"c": 3.0}}
    assert list(top_k(alone, 3, shared, 5.0)) == ["a", "b"]
    rows = compare_choices(predictions, {}, alone, costs, budget=4.5)
    assert (rows[0].votes, rows[0].cost) == ({"b": 1.0}, 4.0)
    with pytest.raises(UserError, match="2 fits none"):
        top_k(alone, 3, costs, 2.0)


def test_weights_per_class_are_a_choice_too(tmp_path: Path) -> None:
    predictions = stored(tmp_path, MEMBERS, TRUTHS)
    # background by b alone, foreground by a alone: b's background at voxel 2 of the first case is 0.9 to a's 0.6
    assert dice_per_case(predictions, {"a": (0.0, 1.0), "b": (1.0, 0.0)}) == pytest.approx([1.0, 1.0])
    (_, row) = compare_choices(predictions, {"apart": {"a": (0.0, 1.0), "b": (1.0, 0.0)}}, read_alone(predictions))
    assert type(row).from_json(row.to_json()) == row


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
