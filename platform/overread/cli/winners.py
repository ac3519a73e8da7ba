"""`overread winners`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from overread.cli import _options


@click.command()
@_options.out
@_options.top
@click.option("--tag/--no-tag", default=False, help="Tag the winners by rule in MLflow (replaces tags set by hand).")
@click.option("--members", help="Tag these instead: trial or trial:variant, separated by commas.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Rows of the leaderboard.")
@_options.as_json
def winners(out: Path, top: int, tag: bool, members: str | None, limit: int, as_json: bool) -> None:
    """List the leaderboard of a search by validation Dice, and tag the winners in MLflow.

    The tag `winner=true` set by hand in the MLflow UI counts the same; `overread ensemble --tagged` takes both.
    """
    from overread.cli._tables import leaderboard_grid, show
    from overread.pipeline import choosing
    from overread.pipeline.folders import RunFolder

    rows = choosing.leaderboard(RunFolder(out.resolve()), top=top, tag=tag, members=members)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        show([leaderboard_grid(rows, limit)])
