"""Durations as people write them."""

from __future__ import annotations

import click
import pytest

from overread.cli._durations import DURATION


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("45", 45), ("2m5s", 125)]
)
def test_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["soon", "", "0s", "-5m", "5x"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="must look like 90s, 30m or 1h30m"):
        DURATION.convert(text, None, None)
