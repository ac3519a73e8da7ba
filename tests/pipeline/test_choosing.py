"""The leaderboard without the luck of the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.pipeline.choosing import expected_dice
from overread.records import TrialOutcome, VariantScore
from overread.testing.tiny import tiny_config


def outcome(trial: str, *dice: float, cases: str = "abcd", state: str = "finished") -> tuple[TrialOutcome, Path]:
    score = VariantScore(
        variant="main",
        dice=sum(dice) / len(dice),
        dice_per_class={},
        cases=len(dice),
        seconds_per_case=0.1,
        case_dice=dict(zip(cases, dice, strict=True)),
    )
    made = TrialOutcome(trial_id=trial, config=tiny_config(), state=state, variants=(score,))  # type: ignore[arg-type]
    return made, Path(trial)


def test_rows_of_the_same_cases_have_an_expected_dice() -> None:
    outcomes = {
        "sure": outcome("sure", 0.9, 0.9, 0.9, 0.9),
        "less": outcome("less", 0.5, 0.5, 0.5, 0.5),
        "other": outcome("other", 0.8, 0.8, 0.8, 0.8, cases="efgh"),  # another fold
        "failed": outcome("failed", 1.0, 1.0, 1.0, 1.0, state="failed"),
    }
    found = expected_dice(outcomes, {})
    assert found == {("sure", "main"): pytest.approx(0.9), ("less", "main"): pytest.approx(0.5)}


def test_cases_of_one_patient_give_none() -> None:
    outcomes = {"a": outcome("a", 0.9, 0.8, 0.7, 0.6)}
    assert expected_dice(outcomes, dict.fromkeys("abcd", "patient")) == {}
    assert expected_dice({}, {}) == {}
