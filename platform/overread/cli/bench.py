"""`overread bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overread.cli import _options
from overread.cli._durations import DURATION
from overread.cli._session import working
from overread.cli.reproduce import BUDGET_HELP, run_paper

if TYPE_CHECKING:
    from overread.ensemble.gain import Objective

ROWS_HELP = "Networks to train, comma-separated names; 'core' and 'all' stand for every one, 'none' trains nothing."

TRIALS, TRIAL_SECONDS = 30, 15.0
SIDE = 64
"""On two cores 90 trials of 15 s are 11 minutes of training; starts, gains, selections and readings come on top."""
OBJECTIVES_HELP = "To compare with dice; may be repeated [default: all]."
STEPS_HELP = (
    "Optimiser steps of each trial instead of seconds, which other work on the machine shortens; "
    "--trial-time then only sizes the networks."
)
TRIALS_HELP = f"Trainings of each search [default: {TRIALS}, with --time-budget as many as fit]."


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


@bench.command()
@_options.data
@_options.out
@_options.preparation
@click.option("--objective", "objectives", type=click.Choice(_options.OBJECTIVES), multiple=True, help=OBJECTIVES_HELP)
@click.option("--trials", type=click.IntRange(1), help=TRIALS_HELP)
@click.option("--time-budget", type=DURATION, help="Wall time of each search.")
@click.option("--trial-time", type=DURATION, default=f"{TRIAL_SECONDS:.0f}s", show_default=True, help="Of each trial.")
@click.option("--trial-steps", type=click.IntRange(1), help=STEPS_HELP)
@click.option("--architectures", help="Comma-separated names, or all [default: the panel's own].")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_options.top
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
def objective(
    data: Path,
    out: Path,
    objectives: tuple[Objective, ...],
    trials: int | None,
    time_budget: float | None,
    trial_time: float,
    trial_steps: int | None,
    architectures: str | None,
    gpus_per_worker: float,
    top: int,
    cache: Path | None,
    tracking_uri: str | None,
    seed: int,
    address: str | None,
    cpus: int | None,
    **preparation: Any,
) -> None:
    """Compare searches for the best network and for what the ensemble lacks, at equal budget.

    One search for each objective; members are selected greedily in each, and all are frozen before the locked split is
    read. The same call again continues; until then it may add an objective.
    """
    from overread.cli._tables import show
    from overread.data.store import default_cache
    from overread.pipeline.objectives import OBJECTIVES, REPORT, BenchSettings, compare_objectives, objective_grids
    from overread.search.settings import SearchSettings

    told = preparation | {"seed": seed, "gpus_per_worker": gpus_per_worker, "size": preparation["size"] or SIDE}
    settings = BenchSettings(
        data=str(data.resolve()),
        cache=str((cache or default_cache()).resolve()),
        prepare=_options.prepare_settings(told),
        search=SearchSettings(
            architectures=tuple(filter(None, (architectures or "").split(","))),
            trials=trials if trials or time_budget else TRIALS,
            time_budget_s=time_budget,
            seconds_per_trial=trial_time,
            steps=trial_steps,
            gpus_per_worker=gpus_per_worker,
            cpus=cpus,
            seed=seed,
        ),
        top=top,
    )
    with working(address, cpus, gpus_per_worker, data=data, out=out, cache=cache) as map_cases:
        found = compare_objectives(
            out, settings, map_cases, objectives=objectives or OBJECTIVES, tracking_uri=tracking_uri
        )
    show(objective_grids(found))
    click.echo(f"report: {(out / REPORT).resolve()}")
