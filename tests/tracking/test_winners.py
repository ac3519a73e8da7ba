from pathlib import Path

import pytest

from overread.ensemble.gain import GAIN, Gain
from overread.errors import UserError
from overread.records import TrialConfig, TrialOutcome, VariantScore
from overread.tracking.runs import Tracker
from overread.tracking.store import resolve_uri
from overread.tracking.winners import leaderboard, tag_joined, tag_members, tag_winners, tagged_winners, winner_variants

RESULTS = {"a": {"main": 0.7, "level_1": 0.6}, "b": {"main": 0.8, "level_1": 0.75}, "c": {}}


def config(architecture: str) -> TrialConfig:
    return TrialConfig(architecture=architecture, options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return resolve_uri(None, tmp_path_factory.mktemp("store"))


@pytest.fixture
def tracker(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> Tracker:
    tracker = Tracker(uri, "tests", f"search-{request.node.name}")
    for trial_id, scores in RESULTS.items():
        variants = tuple(
            VariantScore(variant=name, dice=dice, dice_per_class={}, cases=1, seconds_per_case=0.5)
            for name, dice in scores.items()
        )
        outcome = TrialOutcome(
            trial_id=trial_id,
            config=config("unet"),
            state="finished" if variants else "failed",
            variants=variants,
            parameters=5,
        )
        tracker.finish_trial(trial_id, outcome, tmp_path)
    tracker.start_trial("d", config("unetmer"))
    return tracker


def test_leaderboard_sorts_variants_by_validation_dice(tracker: Tracker) -> None:
    rows = leaderboard(tracker)
    assert [(r.trial_id, r.variant, r.validation_dice) for r in rows] == [
        ("b", "main", 0.8),
        ("b", "level_1", 0.75),
        ("a", "main", 0.7),
        ("a", "level_1", 0.6),
        ("c", "main", None),
        ("d", "main", None),
    ]
    assert [r.state for r in rows[-2:]] == ["failed", "running"]
    assert (rows[0].parameters, rows[0].seconds_per_case, rows[0].architecture) == (5, 0.5, "unet")
    assert [r.cases for r in rows] == [1, 1, 1, 1, None, None]


def test_tags_come_back_and_replace_each_other(tracker: Tracker) -> None:
    assert tagged_winners(tracker) == []
    tag_winners(tracker, [("a", "main"), ("b", "main"), ("b", "level_1")])
    assert tagged_winners(tracker) == [("b", "main"), ("b", "level_1"), ("a", "main")]
    tag_winners(tracker, [("a", "level_1")])
    assert tagged_winners(tracker) == [("a", "level_1")]
    assert [r.trial_id for r in leaderboard(tracker) if r.winner] == ["a"]


def test_members_of_an_ensemble_leave_the_tags_of_people_alone(tracker: Tracker) -> None:
    tag_winners(tracker, [("a", "main")])
    tag_members(tracker, [("b", "main"), ("b", "level_1")])
    tag_members(tracker, [("b", "level_1")])
    assert tagged_winners(tracker) == [("a", "main")]
    assert [(r.trial_id, r.variant) for r in leaderboard(tracker) if r.member] == [("b", "level_1")]


def test_who_joined_the_ensemble_of_a_search_is_told(tracker: Tracker, tmp_path: Path) -> None:
    assert not any(row.joined or row.gain for row in leaderboard(tracker))
    Gain(members=("b",), dice=0.9, gain=0.1, error=0.0, aurc=0.1, aurc_gain=0.0).save(tmp_path / GAIN)
    score = VariantScore(variant="main", dice=0.5, dice_per_class={}, cases=1, seconds_per_case=0.5)
    outcome = TrialOutcome(trial_id="e", config=config("unet"), state="finished", variants=(score,), parameters=5)
    tracker.finish_trial("e", outcome, tmp_path)
    tag_joined(tracker, ["b", "e"])
    found = {(row.trial_id, row.variant): (row.joined, row.gain) for row in leaderboard(tracker)}
    assert found["e", "main"] == (True, 0.1) and found["b", "main"] == (True, None)
    assert found["b", "level_1"] == found["a", "main"] == (False, None)
    assert tagged_winners(tracker) == []


def test_a_tag_set_by_hand_counts_the_same(tracker: Tracker) -> None:
    runs = {run.data.tags["overread_trial"]: run.info.run_id for run in tracker.trial_runs()}
    tracker.client.set_tag(runs["a"], "winner", "True")
    tracker.client.set_tag(runs["b"], "winner", "level_1")
    assert tagged_winners(tracker) == [("b", "level_1"), ("a", "main")]


@pytest.mark.parametrize(
    ("trial", "variant", "message"),
    [("z", "main", "choose one of a, b, c, d"), ("a", "level_9", "one of level_1, main"), ("d", "main", "has none")],
)
def test_unknown_winners_are_refused_and_change_nothing(
    tracker: Tracker, trial: str, variant: str, message: str
) -> None:
    tag_winners(tracker, [("a", "main")])
    with pytest.raises(UserError, match=message):
        tag_winners(tracker, [("b", "main"), (trial, variant)])
    assert tagged_winners(tracker) == [("a", "main")]


def test_a_mistyped_tag_is_reported(tracker: Tracker) -> None:
    tracker.client.set_tag(tracker.trial_runs()[0].info.run_id, "winner", "ture")
    with pytest.raises(UserError, match=r"no variant 'ture'|has none"):
        tagged_winners(tracker)


@pytest.mark.parametrize(
    ("tag", "variants"),
    [("true", ("main",)), (" YES ", ("main",)), ("0", ()), ("", ()), ("main,level_1,true", ("main", "level_1"))],
)
def test_values_of_the_tag(tag: str, variants: tuple[str, ...]) -> None:
    assert winner_variants(tag) == variants
