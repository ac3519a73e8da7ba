"""`overread bench`."""

from __future__ import annotations

from typing import Any

import click

from overread.cli import _options
from overread.cli._durations import DURATION
from overread.cli.reproduce import BUDGET_HELP, run_paper

ROWS_HELP = "Networks to train, comma-separated names; 'core' and 'all' stand for every one, 'none' trains nothing."


@click.group()
def bench() -> None:
    """Measure what the platform promises, on your own data."""


@bench.command()
@_options.data
@_options.out
@click.option("--size", type=click.Choice(["small", "paper"]), default="small", show_default=True)
@click.option("--rows", default="core", show_default=True, help=ROWS_HELP)
@click.option("--budget", type=DURATION, help=BUDGET_HELP)
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
@click.option("--failure-dice", type=_options.DICE, help=f"{_options.FAILURE_HELP} [default: 0.7, and 0.5 beside it].")
def failure(**options: Any) -> None:
    """Compare failure detectors: seeds, architectures, dropout, scales, relations and entropy, on corruptions too.

    The same call again continues: networks that are trained and cases that are read are kept, tables are written anew.
    """
    run_paper(paper="failure", imported=(), **options)
