import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.candidates import Costs, StoredPredictions, dice_per_case
from overread.ensemble.greedy import (
    GreedySettings,
    Selection,
    _best,
    class_weights,
    select_greedily,
    select_per_class,
)
from overread.errors import UserError

CASES, VOXELS = 10, 150


def apart(costs: dict[str, float]) -> Costs:
    """Members that share nothing."""
    return {member: {member: cost} for member, cost in costs.items()}


def drawn(
    root: Path, members: dict[str, tuple[int, float]], size: int = VOXELS, cases: int = CASES
) -> StoredPredictions:
    """Write members whose foreground probability is the truth and noise: (seed, strength); equal seeds err alike."""
    names = tuple(f"c{i}" for i in range(cases))
    truths = [np.random.default_rng(100 + i).uniform(size=size) < 0.4 for i in range(cases)]
    for name, (seed, strength) in members.items():
        (root / name).mkdir(parents=True)
        for i, truth in enumerate(truths):
            noise = np.random.default_rng([seed, i]).normal(0, strength, size)
            p = np.clip(np.where(truth, 0.7, 0.3) + noise, 0, 1).astype(np.float16)
            np.save(root / name / f"c{i}.npy", np.stack([1 - p, p]))
    (root / "truth").mkdir()
    for name, truth in zip(names, truths, strict=True):
        np.save(root / "truth" / f"{name}.npy", truth.astype(np.uint8))
    return StoredPredictions(root, tuple(members), names, names)


PANEL = {"twin": (1, 0.25), "first": (1, 0.22), "other": (2, 0.25), "third": (3, 0.3), "poor": (4, 0.9)}


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> StoredPredictions:
    return drawn(tmp_path_factory.mktemp("panel"), PANEL)


def test_takes_members_that_err_apart_and_leaves_twins_and_poor_ones(panel: StoredPredictions) -> None:
    found = select_greedily(panel)
    assert list(found.votes)[:2] == ["first", "other"]  # the twin of the first is better than `third`, and errs alike
    assert "third" in found.votes
    assert "poor" not in found.votes
    assert found.dice == pytest.approx(np.mean(dice_per_case(panel, found.votes)), abs=2e-3)
    assert "within noise" in found.ended


def test_each_round_takes_the_best_vote(panel: StoredPredictions) -> None:
    """Against a plain search over the soft votes, one round at a time."""
    found = select_greedily(panel, GreedySettings(rounds=4, noise=0.0))
    votes: dict[str, float] = {}
    for taken in found.rounds:
        options = {m: np.mean(dice_per_case(panel, votes | {m: votes.get(m, 0) + 1})) for m in PANEL}
        assert taken.member == max(options, key=lambda m: options[m])
        assert taken.dice == pytest.approx(options[taken.member], abs=1e-6)
        votes[taken.member] = votes.get(taken.member, 0) + 1
    assert votes == found.votes


def test_gain_within_noise_ends_it(panel: StoredPredictions) -> None:
    strict = select_greedily(panel, GreedySettings(noise=1000.0))
    assert list(strict.votes) == ["first"]
    assert "is within noise (standard error" in strict.ended
    assert strict.rounds[0].gain is None
    loose = select_greedily(panel, GreedySettings(noise=0.0, rounds=5))
    assert len(loose.rounds) >= len(select_greedily(panel, GreedySettings(rounds=5)).rounds)
    assert all(r.gain is not None and r.gain > 0 for r in loose.rounds[1:])


def test_noise_is_that_of_groups(panel: StoredPredictions) -> None:
    # All cases of one patient: nothing is known of the noise, so no gain counts.
    one = StoredPredictions(panel.root, panel.members, panel.cases, ("p",) * CASES)
    assert list(select_greedily(one).votes) == ["first"]


def test_ties_go_to_members_already_in_then_to_the_cheaper(tmp_path: Path) -> None:
    same = {"dear": (1, 0.25), "cheap": (1, 0.25), "other": (2, 0.25)}
    predictions = drawn(tmp_path, same)
    cost = apart({"dear": 9.0, "cheap": 1.0, "other": 1.0})
    found = select_greedily(predictions, GreedySettings(cost=cost, noise=0.0, rounds=6))
    assert "dear" not in found.votes
    assert found.cost == 2.0
    # without costs the first named of equals starts, and its copy never joins
    plain = select_greedily(predictions, GreedySettings(noise=0.0, rounds=6))
    assert list(plain.votes) == ["dear", "other"]


def test_a_member_already_in_costs_nothing_more() -> None:
    settings = GreedySettings(cost=apart({"in": 9.0, "new": 1.0, "worse": 0.0}))
    scores = {"new": np.array([0.5, 0.7]), "in": np.array([0.7, 0.5]), "worse": np.array([0.5, 0.6])}
    assert _best(scores, {"in": 1.0}, settings) == "in"
    assert _best(scores, {}, settings) == "new"
    shared = GreedySettings(cost={"old": {"net": 5.0}, "in": {"net": 5.0}, "new": {"new": 1.0}, "worse": {}})
    assert _best(scores, {"old": 1.0}, shared) == "in"  # its network is there already


def test_budget(panel: StoredPredictions) -> None:
    cost = apart({"twin": 2.0, "first": 5.0, "other": 4.0, "third": 3.0, "poor": 1.0})
    found = select_greedily(panel, GreedySettings(cost=cost, budget=8.5))
    assert set(found.votes) == {"first", "third"}  # `other` gains more and would make it 9
    assert found.cost == 8.0
    with pytest.raises(UserError, match=r"0\.5 is below the cheapest \(1\)"):
        select_greedily(panel, GreedySettings(cost=cost, budget=0.5))
    with pytest.raises(UserError, match="a budget needs the cost"):
        GreedySettings(budget=3.0)
    with pytest.raises(UserError, match="twin, first has none"):
        select_greedily(panel, GreedySettings(cost=apart({"other": 1.0, "third": 1.0, "poor": 1.0})))


def test_least_members_are_taken_whatever_they_gain(panel: StoredPredictions) -> None:
    found = select_greedily(panel, GreedySettings(noise=1000.0, least=3))
    assert len(found.votes) == 3
    assert set(found.votes.values()) == {1.0}
    everything = select_greedily(panel, GreedySettings(noise=1000.0, least=9))
    assert len(everything.votes) == 5
    assert everything.ended.startswith("the best gain")


def test_the_least_number_is_of_different_members_where_the_budget_fits_them(panel: StoredPredictions) -> None:
    """`first` alone is best, but would leave 1: not enough for two others."""
    cost = apart({"twin": 3.0, "first": 8.0, "other": 3.0, "third": 3.0, "poor": 3.0})
    settings = GreedySettings(cost=cost, budget=9.0, least=3, noise=1000.0)
    found = select_greedily(panel, settings)
    assert len(found.votes) == 3
    assert "first" not in found.votes
    assert found.cost == 9.0
    # of two networks only: the best fits beside the cheapest, and no third
    cost = apart({"twin": 3.0, "first": 6.0, "other": 5.0, "third": 5.0, "poor": 5.0})
    found = select_greedily(panel, GreedySettings(cost=cost, budget=9.5, least=3, noise=0.0))
    assert set(found.votes) == {"first", "twin"}
    assert found.ended.startswith("the budget fits 2 of at least 3 members; ")
    # members of one network are paid once: all fit
    one = {member: {"net": 9.0} for member in PANEL}
    assert len(select_greedily(panel, GreedySettings(cost=one, budget=9.0, least=3)).votes) >= 3


def test_members_taken_for_another_class_are_paid_and_count(panel: StoredPredictions) -> None:
    cost = apart(dict.fromkeys(PANEL, 4.0))
    settings = GreedySettings(cost=cost, budget=8.0, least=2, noise=0.0, taken=("poor", "third"))
    found = select_greedily(panel, settings)
    assert set(found.votes) <= {"poor", "third"}  # two of 4 are all the budget
    assert next(iter(found.votes)) == "third"
    assert set(select_greedily(panel, replace(settings, budget=None, cost=None, most=2)).votes) <= {"poor", "third"}
    assert next(iter(select_greedily(panel, replace(settings, budget=12.0)).votes)) == "first"


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="rounds and least must be at least 1"):
        GreedySettings(rounds=0)


def test_per_class(tmp_path: Path) -> None:
    # Three classes on six voxels; `one` finds class 1 alone, `two` finds class 2 alone.
    rng = np.random.default_rng(0)
    names = tuple(f"c{i}" for i in range(8))
    for folder in ("one", "two", "truth"):
        (tmp_path / folder).mkdir()
    for name in names:
        truth = rng.integers(0, 3, 60)
        exact = np.eye(3, dtype=np.float32)[truth].T
        blind = {k: np.where(truth == k, 0, truth) for k in (1, 2)}
        np.save(tmp_path / "truth" / f"{name}.npy", truth.astype(np.uint8))
        for member, missed in (("one", 2), ("two", 1)):
            own = 0.8 * np.eye(3, dtype=np.float32)[blind[missed]].T + 0.2 * exact
            np.save(tmp_path / member / f"{name}.npy", own)
    predictions = StoredPredictions(tmp_path, ("one", "two"), names, names)
    chosen = select_per_class(predictions, 3)
    assert {label: selection.votes for label, selection in chosen.items()} == {1: {"one": 1.0}, 2: {"two": 1.0}}
    weights = class_weights(chosen, 3)
    # the other class has the least weight, 0.001; the background the mean of the classes
    assert weights == {"one": (0.5005, 1.0, 0.001), "two": (0.5005, 0.001, 1.0)}
    assert dice_per_case(predictions, weights) == [1.0] * 8
    assert max(dice_per_case(predictions, {"one": 1.0})) < 1.0


def test_json(panel: StoredPredictions) -> None:
    found = select_greedily(panel, GreedySettings(rounds=2))
    assert Selection.from_json(found.to_json()) == found


def peak(root: Path, members: int) -> int:
    predictions = drawn(root, {f"m{i}": (i, 0.3) for i in range(members)}, size=60_000, cases=2)
    tracemalloc.start()
    select_greedily(predictions, GreedySettings(rounds=2, noise=0.0))
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest


def test_memory_does_not_grow_with_members(tmp_path: Path) -> None:
    peak(tmp_path / "warm", 2)
    # five more members of (2, 60000) float16 would be 1.2 MB
    assert peak(tmp_path / "seven", 7) - peak(tmp_path / "two", 2) < 100_000
