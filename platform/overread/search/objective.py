"""The value of a trial for the study: its Dice, or what it adds to the ensemble of the trials before it.

`ensemble.json` of the search names the current members, written by the driver alone. A trial that ends measures its
gain against them in its own process (`gain.json` beside its outcome). Of two that end together the second was measured
without the first: it keeps its value but does not join, as it may bring the same.

Told values stay in the study; today's (`renewed`) are what the sampler looks at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from overread.cluster.contribution import CURRENT, current_members, renewed_gains
from overread.cluster.job import TrialJob
from overread.ensemble.gain import GAIN, Gain, Objective
from overread.jsonio import write_json
from overread.records import TrialOutcome
from overread.search.searcher import main_dice


@dataclass(frozen=True)
class TrialValue:
    """Values the trials of a search folder."""

    out: Path
    objective: Objective = "dice"
    numbers: dict[str, int] = field(default_factory=dict)
    """Of the trials that were valued by their gain, by trial id."""

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
        self.numbers[job.trial_id] = job.number
        return gain.value(self.objective)

    def renewed(self) -> dict[int, float]:
        """Return the values that were last measured anew, by trial number; trials that ended since are not there."""
        gains = renewed_gains(self.out).gains
        return {self.numbers[name]: gain.value(self.objective) for name, gain in gains.items() if name in self.numbers}
