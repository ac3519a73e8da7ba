"""`overread search`."""

from __future__ import annotations

from typing import Any

import click

from overread.cli import _options
from overread.cli._session import working
from overread.cli._settings import paths, run_settings


@click.command()
@_options.data
@_options.out
@_options.preparation
@_options.searching
@_options.time_budget
@_options.existing
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
@click.option("--dry-run", is_flag=True, help="Print the planned trainings, sizes and minutes; train nothing.")
def search(dry_run: bool, **options: Any) -> None:
    """Search networks and their settings; winners are picked in MLflow or by `overread ensemble`."""
    from overread.cli._tables import leaderboard_grid, plan_grid, show
    from overread.pipeline import choosing, stages
    from overread.pipeline.folders import check_free
    from overread.pipeline.run import check_search_settings, start

    settings = run_settings(options)
    with working(options["address"], options["cpus"], options["gpus_per_worker"], **paths(options)) as map_cases:
        check_search_settings(settings.search)
        if not dry_run:
            check_free(settings.out, resume=settings.resume, overwrite=settings.overwrite)
        prepared = stages.prepare(settings.data, settings.prepare, settings.cache, map_cases)
        check_search_settings(settings.search, prepared)
        if dry_run:
            return show([plan_grid(stages.plan(prepared, settings.search))])
        run = stages.open_run(start(settings, prepared.dataset), map_cases, prepared=prepared)
        stages.search(run, settings.search)
        show([leaderboard_grid(choosing.leaderboard(run.folder, top=1), 20)])
    select = " --select greedy" if settings.greedy else ""
    return click.echo(f"next: overread ensemble --out {settings.out}{select}")
