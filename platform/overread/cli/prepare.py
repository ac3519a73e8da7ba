"""`overread prepare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._session import working

OUT_HELP = "Run folder to make without a search, for `overread ensemble --member`: readings of other tools alone."


@click.command()
@_options.data
@click.option("--out", type=_options.FOLDER, help=OUT_HELP)
@_options.preparation
@_options.cache
@_options.seed
@_options.cluster
@_options.as_json
def prepare(
    data: Path,
    out: Path | None,
    cache: Path | None,
    address: str | None,
    cpus: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check a data set, report all problems at once, and prepare its arrays and splits.

    A second call with the same data and settings finds the arrays and starts at once.
    """
    from overread.pipeline import stages

    settings = _options.prepare_settings(options)
    with working(address, cpus, data=data, out=out, cache=cache) as map_cases:
        prepared = stages.prepare(data, settings, cache, map_cases)
    if out is not None:
        stages.begin(out, data, settings, cache, prepared.dataset)
    splits = prepared.splits
    if as_json:
        return click.echo(json.dumps(prepared.to_json()))
    if out is not None:
        click.echo(f"run folder     {out.resolve()}")
    click.echo(f"prepared       {prepared.root}")
    click.echo(f"cases          {len(prepared.cases)} in {len({case.group for case in prepared.cases})} groups")
    click.echo(f"labels         {', '.join(prepared.label_names)}")
    click.echo(f"near-duplicates {len(prepared.near_duplicates)} pairs, kept in one group each")
    folds = "+".join(str(len(fold)) for fold in splits.folds)
    return click.echo(
        f"splits         {len(splits.locked)} locked, {len(splits.calibration)} calibration, {folds} in folds"
    )
