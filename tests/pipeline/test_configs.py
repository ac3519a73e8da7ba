"""A config comes alone or inside the records of a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.cluster.job import TrialJob
from overread.errors import UserError
from overread.pipeline.configs import read_trial_config
from overread.records import TrialConfig, TrialOutcome

CONFIG = TrialConfig(architecture="unet", options={"width": 8}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)


@pytest.mark.parametrize(
    "record",
    [
        CONFIG,
        TrialJob(trial_id="t", number=0, folder="f", config=CONFIG),
        TrialOutcome(trial_id="t", config=CONFIG, state="finished"),
    ],
    ids=["config", "job", "outcome"],
)
def test_a_config_is_found_in_every_record_of_a_trial(
    tmp_path: Path, record: TrialConfig | TrialJob | TrialOutcome
) -> None:
    record.save(tmp_path / "record.json")
    assert read_trial_config(tmp_path / "record.json") == CONFIG


def test_another_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"config": 3}')
    with pytest.raises(UserError, match="TrialConfig has unknown keys"):
        read_trial_config(tmp_path / "other.json")
