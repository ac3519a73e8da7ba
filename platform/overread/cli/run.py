"""`overread run` and `overread demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._durations import DURATION
from overread.cli._session import working
from overread.cli._settings import paths, run_settings

DEMO_TRIALS = 6
"""Two per family: the minutes of a demo train so many networks well enough to read together."""


@click.command()
@_options.data
@_options.out
@_options.preparation
@_options.searching
@_options.time_budget
@_options.top
@_options.select
@_options.coverage
@_options.existing
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
def run(**options: Any) -> None:
    """All steps on one data set: prepare, search, ensemble, read the locked split, report."""
    _run(options)


@click.command()
@click.option("--out", type=_options.FOLDER, default=Path("runs/demo"), show_default=True, help="Run folder.")
@click.option("--cases", type=click.IntRange(20), default=80, show_default=True, help="Cases of the phantom.")
@click.option("--kind", type=click.Choice(["2d", "3d"]), default="2d", show_default=True, help="Images or volumes.")
@click.option("--annotators", type=click.IntRange(1), default=1, show_default=True)
@_options.preparation
@_options.searching
@click.option("--time-budget", type=DURATION, default="200s", show_default=True, help="For all stages.")
@_options.top
@_options.select
@_options.coverage
@_options.existing
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
def demo(cases: int, kind: str, annotators: int, **options: Any) -> None:
    """The whole road on a built-in phantom data set whose difficulty is known for every case."""
    from overread.data.store import default_cache
    from overread.pipeline.demo import demo_phantom

    cache, seed = options["cache"] or default_cache(), options["seed"]
    data = demo_phantom(cache, cases=cases, seed=seed, kind=kind, annotators=annotators)
    _run(options | {"data": data, "trials": options["trials"] or DEMO_TRIALS})


def _run(options: dict[str, Any]) -> None:
    from overread.cli._tables import show, summary_grids
    from overread.pipeline.run import Clock, run_all

    settings, clock = run_settings(options), Clock()
    with working(options["address"], options["cpus"], options["gpus_per_worker"], **paths(options)) as map_cases:
        summary = run_all(settings, map_cases, clock)
    show(summary_grids(summary))
    click.echo(f"report: {(settings.out / 'report.html').resolve()}")
