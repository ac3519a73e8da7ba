"""The value of a trial for the study: its Dice, or what it adds to the ensemble of the trials before it.

`ensemble.json` of the search names the current members, written by the driver alone. A trial that ends measures its
gain against them in its own process (`gain.json` beside its outcome). Of two that end together the second was measured
without the first: it keeps its value but does not join, as it may bring the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overread.cluster.contribution import CURRENT, GAIN, current_members
from overread.cluster.job import TrialJob
from overread.ensemble.gain import Gain, Objective
from overread.jsonio import write_json
from overread.records import TrialOutcome
from overread.search.searcher import main_dice


@dataclass(frozen=True)
class TrialValue:
    """Values the trials of a search folder."""

    out: Path
    objective: Objective = "dice"

    def waits(self, job: TrialJob, outcome: TrialOutcome) -> bool:
        """Return whether a trained trial still has to be measured."""
        return self.objective != "dice" and outcome.state == "finished" and not (job.path / GAIN).is_file()

    def __call__(self, job: TrialJob, outcome: TrialOutcome) -> float | None:
        """Return the value of a trial that has ended, None without one; it joins the current ensemble if it should."""
        if self.objective == "dice":
            return main_dice(job, outcome)
        if outcome.state != "finished" or not (job.path / GAIN).is_file():
            return None
        gain = Gain.load(job.path / GAIN)
        members = current_members(self.out)
        if gain.members == members and job.trial_id not in members and gain.joins(self.objective):
            write_json(self.out / CURRENT, {"members": [*members, job.trial_id]})
        return gain.value(self.objective)
