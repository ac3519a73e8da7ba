"""Winners are frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.errors import UserError
from overread.pipeline.folders import RunFolder
from overread.pipeline.winners import freeze_winners, read_chosen
from overread.records import Prepared, TrialConfig, TrialOutcome, VariantScore, Winners
from overread.testing.tiny import tiny_prepared

Outcomes = dict[str, tuple[TrialOutcome, Path]]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "data")


@pytest.fixture
def outcomes(tmp_path: Path) -> Outcomes:
    found: Outcomes = {}
    for trial, dice, baseline in (("t0", 0.7, True), ("t1", 0.8, False)):
        folder = tmp_path / "run" / "search" / "trials" / trial
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_text(trial)
        config = TrialConfig(
            architecture="unet", options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1, baseline=baseline
        )
        score = VariantScore(variant="main", dice=dice, dice_per_class={}, cases=1, seconds_per_case=0.1)
        outcome = TrialOutcome(
            trial_id=trial, config=config, state="finished", variants=(score,), weights="weights.safetensors"
        )
        found[trial] = (outcome, folder)
    return found


def test_the_best_are_frozen_with_paths_inside_the_run(tmp_path: Path, prepared: Prepared, outcomes: Outcomes) -> None:
    folder = RunFolder(tmp_path / "run")
    winners = freeze_winners(folder, prepared, outcomes, top=1)
    assert Winners.load(folder.winners) == winners
    assert [(m.trial_id, m.weights) for m in winners.members] == [("t1", "search/trials/t1/weights.safetensors")]
    assert winners.baseline is not None and winners.baseline.trial_id == "t0"
    assert winners.prepared == prepared.content


def test_other_winners_are_refused_once_the_locked_split_was_read(
    tmp_path: Path, prepared: Prepared, outcomes: Outcomes
) -> None:
    folder = RunFolder(tmp_path / "run")
    freeze_winners(folder, prepared, outcomes, top=1)
    again = freeze_winners(folder, prepared, outcomes, top=1, chosen=(("t0", "main"),))  # nothing was read yet
    folder.results.parent.mkdir()
    folder.results.write_text("[]")
    assert freeze_winners(folder, prepared, outcomes, top=1, chosen=(("t0", "main"),)) == again
    with pytest.raises(UserError, match="must stay as frozen"):
        freeze_winners(folder, prepared, outcomes, top=1)
    assert Winners.load(folder.winners) == again


def test_other_winners_are_refused_once_a_reading_of_the_locked_split_was_interrupted(
    tmp_path: Path, prepared: Prepared, outcomes: Outcomes
) -> None:
    folder = RunFolder(tmp_path / "run")
    frozen = freeze_winners(folder, prepared, outcomes, top=1)
    folder.predictions.mkdir()
    assert not folder.was_looked_at  # nothing is there to be seen
    (folder.predictions / "masks").mkdir()
    (folder.predictions / "masks" / "case0.png").touch()
    assert folder.was_looked_at and not folder.was_read  # results.json comes last
    with pytest.raises(UserError, match=r"must stay as frozen.*or go on with the frozen ones by `overread evaluate"):
        freeze_winners(folder, prepared, outcomes, top=1, chosen=(("t0", "main"),))
    assert freeze_winners(folder, prepared, outcomes, top=1) == Winners.load(folder.winners) == frozen


def test_members_by_hand() -> None:
    assert read_chosen("t1, t2:level_3") == (("t1", "main"), ("t2", "level_3"))
    with pytest.raises(UserError, match="trial or trial:variant"):
        read_chosen(" , ")
