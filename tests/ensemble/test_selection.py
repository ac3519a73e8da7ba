from dataclasses import replace
from pathlib import Path

import pytest

from overread.data.hashing import file_sha256
from overread.ensemble.selection import select_baseline, select_winners, selection_rule
from overread.errors import UserError
from overread.records import TrialConfig, TrialOutcome, VariantScore

CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)
Outcomes = dict[str, tuple[TrialOutcome, Path]]


def score(variant: str, dice: float) -> VariantScore:
    return VariantScore(
        variant=variant,
        dice=dice,
        dice_per_class={"organ": dice},
        cases=1,
        seconds_per_case=0.1,
        case_dice={"a": dice},
    )


def add(outcomes: Outcomes, root: Path, trial: str, architecture: str, **variants: float) -> None:
    folder = root / "trials" / trial
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_text(trial)
    outcomes[trial] = (
        TrialOutcome(
            trial_id=trial,
            config=replace(CONFIG, architecture=architecture),
            state="finished",
            variants=tuple(score(name, dice) for name, dice in variants.items()),
            weights="weights.safetensors",
        ),
        folder,
    )


@pytest.fixture
def outcomes(tmp_path: Path) -> Outcomes:
    found: Outcomes = {}
    add(found, tmp_path, "t1", "unet", main=0.90)
    add(found, tmp_path, "t2", "unet", main=0.89)
    add(found, tmp_path, "t3", "unetmer", main=0.86, scale_1=0.86, scale_2=0.87)
    add(found, tmp_path, "t4", "unet_sharp", main=0.70)
    return found


def picks(outcomes: Outcomes, **options: object) -> list[tuple[str, str]]:
    return [(m.trial_id, m.variant) for m in select_winners(outcomes, **options)]  # type: ignore[arg-type]


def test_architectures_first_then_the_rest_without_weak_and_double_readings(outcomes: Outcomes) -> None:
    # t4 is 0.20 below the best; scale_1 of t3 reads like its main
    assert picks(outcomes) == [("t1", "main"), ("t3", "scale_2"), ("t2", "main"), ("t3", "main")]


def test_k_and_margin(outcomes: Outcomes) -> None:
    assert picks(outcomes, k=2) == [("t1", "main"), ("t3", "scale_2")]
    assert picks(outcomes, margin=0.5, k=3) == [("t1", "main"), ("t3", "scale_2"), ("t4", "main")]
    assert picks(outcomes, margin=0.0) == [("t1", "main")]


def test_a_wider_margin_finds_three_readings_and_votes_shrink(outcomes: Outcomes) -> None:
    # within 0.01 are t1 and t2; scale_2 of t3 (0.03 below) is within four margins, t4 is not
    members = select_winners(outcomes, margin=0.01)
    assert [(m.trial_id, m.variant) for m in members] == [("t1", "main"), ("t2", "main"), ("t3", "scale_2")]
    assert [m.weight for m in members] == pytest.approx([1.0, 0.367879, 0.049787], abs=1e-6)  # e^0, e^-1, e^-3
    assert {m.weight for m in select_winners(outcomes, chosen=[("t1", "main"), ("t4", "main")])} == {1.0}


def test_other_trials_come_before_other_variants(outcomes: Outcomes) -> None:
    add(outcomes, outcomes["t1"][1].parent, "t0", "unet", main=0.88, level_1=0.885)
    assert picks(outcomes, k=4) == [("t1", "main"), ("t3", "scale_2"), ("t2", "main"), ("t0", "level_1")]


def test_best_first_whatever_the_order_of_outcomes(outcomes: Outcomes) -> None:
    assert picks(dict(reversed(outcomes.items()))) == picks(outcomes)


def test_failed_trials_and_those_without_weights_are_left_out(outcomes: Outcomes) -> None:
    outcomes["t1"] = (replace(outcomes["t1"][0], state="failed"), outcomes["t1"][1])
    outcomes["t2"] = (replace(outcomes["t2"][0], weights=None), outcomes["t2"][1])
    (outcomes["t4"][1] / "weights.safetensors").unlink()
    assert picks(outcomes) == [("t3", "scale_2"), ("t3", "main")]


def test_nan_dice_never_wins(outcomes: Outcomes) -> None:
    add(outcomes, outcomes["t1"][1].parent, "t5", "other", main=float("nan"))
    assert ("t5", "main") not in picks(outcomes)


def test_chosen_by_hand_wins_over_the_rule(outcomes: Outcomes) -> None:
    chosen = (("t4", "main"), ("t3", "scale_1"), ("t4", "main"))
    assert picks(outcomes, k=1, chosen=chosen) == [("t4", "main"), ("t3", "scale_1")]
    assert picks(outcomes, chosen=()) == picks(outcomes)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("t9", "main"), "unknown trial 't9': choose one of t1, t2, t3, t4"),
        (("t3", "scale_8"), "unknown variant of trial t3 'scale_8': choose one of main, scale_1, scale_2"),
    ],
)
def test_unknown_choice_lists_the_known_ones(outcomes: Outcomes, choice: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        select_winners(outcomes, chosen=[choice])


def test_chosen_trial_without_weights(outcomes: Outcomes) -> None:
    outcomes["t2"] = (replace(outcomes["t2"][0], weights=None), outcomes["t2"][1])
    with pytest.raises(UserError, match="trial t2 must have weights"):
        select_winners(outcomes, chosen=[("t2", "main")])


def test_member_says_where_its_weights_are(outcomes: Outcomes, tmp_path: Path) -> None:
    first, second = select_winners(outcomes, k=2, root=tmp_path / "run")
    assert first.weights == "../trials/t1/weights.safetensors"
    assert first.sha256 == file_sha256(tmp_path / "trials/t1/weights.safetensors")
    assert (first.name, second.name) == ("unet-t1", "unetmer-t3-scale_2")
    assert (first.validation_dice, first.weight) == (0.90, 1.0)


def test_names_are_safe_as_file_names(tmp_path: Path) -> None:
    found: Outcomes = {}
    add(found, tmp_path, "a b", "unet", main=0.5)
    assert select_winners(found)[0].name == "unet-a_b"


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UserError, match="at least one finished trial"):
        select_winners({})
    with pytest.raises(UserError, match="at least 1 member, but got k = 0"):
        select_winners({}, k=0)
    with pytest.raises(UserError, match="margin must be at least 0"):
        select_winners({}, margin=-0.1)


def test_baseline_is_the_trial_marked_so(outcomes: Outcomes) -> None:
    assert select_baseline(outcomes) is None
    outcome, folder = outcomes["t2"]
    outcomes["t2"] = (replace(outcome, config=replace(outcome.config, baseline=True)), folder)
    baseline = select_baseline(outcomes)
    assert baseline is not None and (baseline.trial_id, baseline.variant) == ("t2", "main")
    assert baseline.name == next(m.name for m in select_winners(outcomes) if m.trial_id == "t2")


def test_votes_of_a_greedy_selection_are_shares_of_the_most(outcomes: Outcomes) -> None:
    first, second = [(m.trial_id, m.variant) for m in select_winners(outcomes, k=2)]
    members = select_winners(outcomes, votes={first: 1.0, second: 4.0})
    assert [(m.weight, m.class_weights) for m in members] == [(0.25, ()), (1.0, ())]
    apart = select_winners(outcomes, votes={first: (0.75, 1.0, 0.5), second: (0.5, 0.001, 1.0)})
    assert [m.vote for m in apart] == [(0.75, 1.0, 0.5), (0.5, 0.001, 1.0)]
    assert [m.weight for m in apart] == [0.75, 0.5]  # shown beside them: that of the background
    rule = selection_rule(2, votes={("t", "main"): (0.75, 1.0, 0.5)})
    assert rule.startswith("greedy selection with replacement for each class")
    assert rule.endswith("votes: t main (0.75 / 1 / 0.5)")


def test_the_rule_tells_where_the_votes_were_given() -> None:
    votes = {("t", "main"): 2.0}
    assert "replacement on the validation cases, at most 2 members" in selection_rule(2, votes=votes)
    rule = selection_rule(2, votes=votes, folds=5)
    assert "replacement out of fold on the cases of 5 folds, at most 2 members" in rule


def test_rule_in_words() -> None:
    assert "at most 4, none more than 0.02 below" in selection_rule(4, 0.02)
    assert selection_rule(chosen=[("t1", "main")]) == "chosen by hand: t1 main"
