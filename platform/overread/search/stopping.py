"""Fair stopping: asynchronous successive halving over networks of different families, as a pure policy.

Method: ASHA (Li et al. 2020, arXiv:1810.05934, Algorithm 2), stopping variant. Differs from it: a rung is a per cent of
a trial's own step budget, and all trials get equal training seconds, so that slow networks are compared with fast ones
at equal cost; the first trial of every family always runs to its end, so that each family has a full training;
nothing stops before a rung has a few records. It decides and remembers only: `search.scheduler` acts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from overread.records import EpochReport


@dataclass(kw_only=True)
class FairStopping:
    """The policy with its records.

    >>> policy = FairStopping(rungs=(50,), keep=0.5, min_records=1)
    >>> policy.start("a", "unet"), policy.start("b", "unet")
    (True, False)
    >>> policy.record("a", 50, 0.8), policy.record("b", 50, 0.7)
    (None, 'Dice 0.700 after 50 % of its steps is not in the best half (2 trials, cut at 0.800)')
    """

    rungs: tuple[int, ...] = (25, 50)
    """Per cent of a trial's steps at which it may be stopped."""
    keep: float = 0.5
    """Share of the trials at a rung that go on."""
    min_records: int = 3
    """Trials that must have reached a rung before one is stopped there."""
    families: dict[str, str] = field(default_factory=dict)
    """Family by trial."""
    protected: set[str] = field(default_factory=set)
    records: dict[int, dict[str, float]] = field(default_factory=dict)
    """Value by trial for every rung."""

    def start(self, trial: str, family: str) -> bool:
        """Register a trial; return whether it is protected, as the first of its family that has not failed."""
        self.families[trial] = family
        if not any(self.families[other] == family for other in self.protected):
            self.protected.add(trial)
        return trial in self.protected

    def protect(self, trial: str) -> None:
        """Protect a trial that an earlier session protected."""
        self.protected.add(trial)

    def fail(self, trial: str) -> None:
        """Forget a failed trial, so that the next one of its family is protected."""
        self.protected.discard(trial)
        for records in self.records.values():
            records.pop(trial, None)

    def record(self, trial: str, progress: int, value: float) -> str | None:
        """Note the value of a validation; return the reason to stop, or None to go on.

        Only the first validation at or after each rung counts, for the highest rung reached.
        """
        reached = [rung for rung in self.rungs if progress >= rung]
        if not reached or progress >= 100:
            return None
        records = self.records.setdefault(max(reached), {})
        if trial in records:
            return None
        records[trial] = value
        return None if trial in self.protected else self._verdict(max(reached), value)

    def replay(self, trial: str, epochs: tuple[EpochReport, ...]) -> None:
        """Note the validations of a trial that ran in an earlier session."""
        for epoch in epochs:
            self.record(trial, epoch.progress, epoch.metrics["validation_dice"])

    def _verdict(self, rung: int, value: float) -> str | None:
        values = sorted(self.records[rung].values(), reverse=True)
        if len(values) <= self.min_records:
            return None
        cut = values[math.ceil(len(values) * self.keep) - 1]
        if value >= cut:
            return None
        share = "half" if self.keep == 0.5 else f"{self.keep:.0%}"
        return (
            f"Dice {value:.3f} after {rung} % of its steps is not in the best {share} "
            f"({len(values)} trials, cut at {cut:.3f})"
        )
