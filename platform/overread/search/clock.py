"""The time of a search over all its sessions: what a killed session used still counts after a resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from overread.jsonio import read_json, write_json


@dataclass(kw_only=True)
class SearchClock:
    """Counts down a search.

    `budget` None: no end. `least` seconds are granted whatever was used before, so that the trials that a killed
    session left can end; no fresh trial starts in them.
    """

    path: Path
    budget: float | None
    least: float = 0.0
    now: Callable[[], float] = time.time
    started: float = field(init=False)
    used_before: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()
        self.used_before = float(read_json(self.path)["seconds"]) if self.path.exists() else 0.0

    @property
    def used(self) -> float:
        """Seconds of all sessions."""
        return self.used_before + self.now() - self.started

    def save(self) -> None:
        """Note the seconds used, for a session that resumes."""
        write_json(self.path, {"seconds": round(self.used, 2)})

    @property
    def end(self) -> float | None:
        """Unix time at which the whole search must have ended."""
        if self.budget is None:
            return None
        return self.started + max(self.budget - self.used_before, self.least)

    @property
    def last_step(self) -> float | None:
        """Unix time after which no trial trains: the rest is for evaluating the trials that run."""
        return None if self.end is None else self.end - self._evaluation

    @property
    def last_fresh_step(self) -> float | None:
        """Unix time after which no trial of this session trains: `last_step` without the granted seconds."""
        return None if self.budget is None else self.started + self.budget - self.used_before - self._evaluation

    @property
    def remaining(self) -> float:
        """Seconds in which fresh trials may still train; infinite without an end."""
        return float("inf") if self.last_fresh_step is None else self.last_fresh_step - self.now()

    @property
    def _evaluation(self) -> float:
        return min(60.0, max(4.0, 0.05 * (self.budget or 0.0)))
