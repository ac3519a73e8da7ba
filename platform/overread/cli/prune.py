"""`overread prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._session import working
from overread.cli._tables import show

TRIAL_HELP = "Folder of a trial: RUN/search/trials/ID, or the --out of overread train."
DATA_HELP = "Data set the trial was trained on [default: that of the run the trial lies in]."


@click.command()
@click.option("--trial", type=_options.FOLDER, required=True, help=TRIAL_HELP)
@click.option("--out", type=_options.FOLDER, required=True, help="Folder of the pruned network.")
@click.option("--data", type=_options.FOLDER, help=DATA_HELP)
@click.option("--tolerance", type=float, default=0.005, show_default=True, help="Validation Dice that may be lost.")
@click.option("--level", type=int, help="Keep this level [default: the smallest within the tolerance].")
@click.option("--onnx", is_flag=True, help="Also write member.onnx, checked against PyTorch with ONNX Runtime.")
@_options.preparation
@_options.cache
@_options.seed
@_options.cluster
def prune(
    trial: Path,
    out: Path,
    data: Path | None,
    tolerance: float,
    level: int | None,
    onnx: bool,
    cache: Path | None,
    address: str | None,
    cpus: int | None,
    **options: Any,
) -> None:
    """Prune a trained network to its smallest level whose validation Dice is within the tolerance.

    Writes parameters, FLOPs, time per patch and per case, and IoU of all levels as table and picture, and the pruned
    network as a trial of its own. The preparation options are needed only with --data.
    """
    from overread.errors import UserError
    from overread.pipeline import pruning, stages

    settings = pruning.PruneSettings(trial=trial, out=out, tolerance=tolerance, level=level, onnx=onnx)
    pruning.check(settings)
    record = pruning.run_of(trial)
    if data is None and record is None:
        raise UserError(f"--data must name the data set of {trial}, which lies in no run folder: give --data")
    prepare = _options.prepare_settings(options) if data is not None or record is None else record.prepare
    source = data or Path(record.data if record else "")
    store = cache or (Path(record.cache) if record else None)
    with working(address, cpus, trial=trial, out=out, data=data) as map_cases:
        prepared = stages.prepare(source, prepare, store, map_cases)
    result = pruning.prune(settings, prepared)
    show([pruning.level_grid(list(result.scores), result.kept)])
    if result.onnx_difference is not None:
        click.echo(f"ONNX Runtime reads within {result.onnx_difference:.1g} of PyTorch")
    click.echo(f"kept level {result.kept.cost.level}: {(out / 'outcome.json').resolve()}")
