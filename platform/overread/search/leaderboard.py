"""The outcomes of a search on disk. The leaderboard that people see, with gains, is that of `tracking.winners`."""

from __future__ import annotations

from pathlib import Path

from overread.records import TrialOutcome

TRIALS, OUTCOME = "trials", "outcome.json"


def read_outcomes(search_folder: Path) -> dict[str, tuple[TrialOutcome, Path]]:
    """Return outcome and folder of every trial that has ended, by trial id, in the order of the ids."""
    files = sorted((search_folder / TRIALS).glob(f"*/{OUTCOME}"))
    outcomes = [(TrialOutcome.load(path), path.parent) for path in files]
    return {outcome.trial_id: (outcome, folder) for outcome, folder in outcomes}
