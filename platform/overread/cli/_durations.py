"""Durations on the command line: `90s`, `30m`, `1h30m`."""

from __future__ import annotations

import re

import click

_PATTERN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class Duration(click.ParamType[float]):
    """A click type that turns `1h30m` into seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, which must be more than 0."""
        if isinstance(value, int | float):
            return float(value)
        match = _PATTERN.fullmatch(value.strip())
        parts = [float(part) if part else 0.0 for part in match.groups()] if match else []
        seconds = sum(part * unit for part, unit in zip(parts, (3600.0, 60.0, 1.0), strict=False))
        if seconds <= 0:
            self.fail(f"a duration must look like 90s, 30m or 1h30m, but got '{value}'", param, ctx)
        return seconds


DURATION = Duration()
