"""Trial configs that people hand in: alone, or inside the records of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from overread.jsonio import read_json
from overread.records import TrialConfig


def read_trial_config(path: Path) -> TrialConfig:
    """Read a `TrialConfig`, or that of a trial's `job.json` or `outcome.json`; other files raise `UserError`."""
    data = read_json(path)
    if isinstance(data, Mapping) and isinstance(data.get("config"), Mapping):
        data = data["config"]
    return TrialConfig.from_json(data)
