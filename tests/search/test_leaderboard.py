from pathlib import Path

from overread.records import TrialOutcome, VariantScore
from overread.search.leaderboard import read_outcomes
from overread.testing.tiny import tiny_config


def write(folder: Path, trial_id: str, *dice: float) -> None:
    scores = tuple(
        VariantScore(variant=f"v{i}", dice=value, dice_per_class={}, cases=3, seconds_per_case=0.1)
        for i, value in enumerate(dice)
    )
    state = "finished" if dice else "failed"
    outcome = TrialOutcome(trial_id=trial_id, config=tiny_config(), state=state, variants=scores)
    outcome.save(folder / "trials" / trial_id / "outcome.json")


def test_ended_trials_in_the_order_of_their_ids(tmp_path: Path) -> None:
    write(tmp_path, "0001-b", 0.7)
    write(tmp_path, "0000-a", 0.5, 0.7)
    write(tmp_path, "0002-c")
    (tmp_path / "trials" / "0003-running").mkdir()
    outcomes = read_outcomes(tmp_path)
    assert list(outcomes) == ["0000-a", "0001-b", "0002-c"]
    assert outcomes["0000-a"][1] == tmp_path / "trials" / "0000-a"


def test_no_search_is_no_outcomes(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "nothing") == {}
