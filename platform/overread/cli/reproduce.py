"""`overread reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._durations import DURATION
from overread.cli._session import working

ROWS_HELP = "Rows to train, comma-separated names as printed; 'core', 'all' and 'none' stand for those."
IMPORTED_HELP = "NAME=FOLDER: masks of another tool (nnU-Net) as a row, named as the test cases; may be repeated."
BASELINE_HELP = "With ugsnet: the row whose badly segmented cases Table III is of [default: U-Net or its backbone]."
BUDGET_HELP = "Wall time for training in this call; a row that is cut short goes on in the next call."


@click.command()
@click.argument("paper")
@_options.data
@_options.out
@click.option("--size", type=click.Choice(["small", "paper"]), default="small", show_default=True)
@click.option("--rows", default="core", show_default=True, help=ROWS_HELP)
@click.option("--imported", multiple=True, help=IMPORTED_HELP)
@click.option("--baseline", help=BASELINE_HELP)
@click.option("--budget", type=DURATION, help=BUDGET_HELP)
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
def reproduce(**options: Any) -> None:
    """Repeat the experiments of PAPER on a data set: its models, protocol, tables and figures, ours beside print.

    The same call again continues: rows that are trained are kept, tables and figures are written anew.
    """
    run_paper(**options)


def run_paper(
    *,
    paper: str,
    data: Path,
    out: Path,
    size: str,
    rows: str,
    imported: tuple[str, ...],
    budget: float | None,
    gpus_per_worker: float,
    cache: Path | None,
    tracking_uri: str | None,
    seed: int,
    address: str | None,
    cpus: int | None,
    failure_dice: float | None = None,
    baseline: str | None = None,
) -> None:
    """Train, test and compare the rows of a paper, as its command was told."""
    from overread.reproduction import PAPERS
    from overread.reproduction.program import ReproductionSettings, check_baseline, choose_rows
    from overread.reproduction.program import reproduce as run

    folders = _options.named_folders("--imported", imported)
    wanted = tuple(name.strip() for name in rows.split(",") if name.strip())
    choose_rows(PAPERS[paper], wanted)  # wrong names are refused before anything starts
    check_baseline(PAPERS[paper], baseline)
    settings = ReproductionSettings(
        paper=paper,
        data=data,
        out=out,
        size="paper" if size == "paper" else "small",
        rows=wanted,
        imported=folders,
        budget_s=budget,
        cache=cache,
        tracking_uri=tracking_uri,
        gpus_per_worker=gpus_per_worker,
        seed=seed,
        failure_dice=failure_dice,
        baseline=baseline,
    )
    with working(address, cpus, gpus_per_worker, data=data, out=out, cache=cache) as map_cases:
        findings = run(settings, map_cases)
    click.echo(f"{len(findings.trained([row.name for row in findings.rows()]))} of {len(findings.rows())} rows trained")
    click.echo(f"report: {(out / 'report.md').resolve()}")
