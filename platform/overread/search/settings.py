"""What a search may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from overread.ensemble.gain import Objective
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class SearchSettings(JsonRecord):
    """Settings of one search. Give `trials`, `time_budget_s`, or both."""

    space: str = "panel"
    """Stem of a file in `search_spaces/`."""
    spaces_dir: str | None = None
    """Folder of space files; None: those of overread."""
    architectures: tuple[str, ...] = ()
    """Families of a joint space to search; empty: all of them."""
    trials: int | None = None
    time_budget_s: float | None = None
    """Seconds for the whole search, timing of the networks included."""
    seconds_per_trial: float | None = None
    """None: from the time budget, or 60 s without one."""
    steps: int | None = None
    """Optimiser steps of every trial instead of seconds."""
    epochs: int | None = None
    """Validations of every trial; None: 4 to 10 by its seconds."""
    workers_per_trial: tuple[int, ...] = (1,)
    """Training processes of a trial; several numbers take turns over the trials."""
    gpus_per_worker: float = 0.0
    cpus: int | None = None
    """CPUs to use; None: all of the cluster."""
    max_concurrent: int | None = None
    trainer: bool = False
    """Run also 1-worker trials as Ray Train worker groups."""
    points: Literal["fit", "published"] = "fit"
    """Published switches at a width that fits the budget, or the papers' own widths."""
    objective: Objective = "dice"
    """What the study maximises: a trial's own validation Dice, or what it adds to the ensemble (`ensemble.gain`).

    Early stopping goes by the Dice in either case: a gain is known only at the end. So a network that would add much
    but is weak among its family may be stopped before its gain is known.
    """
    points_per_family: int | None = None
    """Points of each family that are tried before the sampler chooses; None: all, with a gain as objective the first.

    All points would take a small search whole, so that nothing in it depended on the objective.
    """
    fold: int = 0
    """The fold that all trials validate on."""
    min_steps: int = 2000
    """Optimiser steps that batch size and width of a network must allow in a trial."""
    min_passes: float = 12.0
    """Times that a trial must be able to see every training slice: below, a narrower network learns more."""
    early_stopping: bool = True
    seed: int = 0
    resume: bool = False
    teachers: tuple[str, ...] = ()
    """Folders of pretrainings: the sources of attention maps to search."""

    def __post_init__(self) -> None:
        if self.trials is None and self.time_budget_s is None:
            raise UserError("a search must have an end, but got neither --trials nor --time-budget: give one of them")
        counts = ("trials", "steps", "epochs", "max_concurrent", "cpus", "points_per_family")
        for name in (*counts, "time_budget_s", "seconds_per_trial"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be positive, but got {value}")
        if not self.workers_per_trial or min(self.workers_per_trial) < 1:
            raise UserError(f"workers_per_trial must be numbers from 1 up, but got {list(self.workers_per_trial)}")
        if self.fold < 0 or self.min_steps < 1:
            raise UserError(f"fold must be from 0 and min_steps from 1 up, but got {self.fold} and {self.min_steps}")
        if self.min_passes < 0:
            raise UserError(f"min_passes must be 0 or more, but got {self.min_passes}")
        if self.gpus_per_worker < 0:
            raise UserError(f"gpus_per_worker must be 0 or more, but got {self.gpus_per_worker}")

    @property
    def opening(self) -> int | None:
        """Points of each family to try first; None: all."""
        return 1 if self.points_per_family is None and self.objective != "dice" else self.points_per_family

    def workers(self, number: int) -> int:
        """Return the number of workers of trial `number`."""
        return self.workers_per_trial[number % len(self.workers_per_trial)]
