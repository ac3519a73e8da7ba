"""`overread train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._session import working
from overread.errors import UserError

CONFIG_HELP = "Trial config (JSON): config.json of an MLflow run, or job.json or outcome.json of a trial's folder."

TEACHER_HELP = "Folder of `overread pretrain` whose attention maps dai_net takes [default: as the config says]."


@click.command()
@_options.data
@_options.out
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), required=True, help=CONFIG_HELP)
@click.option("--teacher", type=_options.FOLDER, help=TEACHER_HELP)
@click.option("--workers-per-trial", type=click.IntRange(1), default=1, show_default=True, help="Training processes.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_options.preparation
@_options.existing
@_options.cache
@_options.seed
@_options.cluster
def train(
    data: Path,
    out: Path,
    config: Path,
    teacher: Path | None,
    workers_per_trial: int,
    gpus_per_worker: float,
    resume: bool,
    overwrite: bool,
    cache: Path | None,
    address: str | None,
    cpus: int | None,
    **options: Any,
) -> None:
    """Train one configuration, such as that of a winner, into --out."""
    from overread.pipeline import stages
    from overread.pipeline.configs import read_trial_config
    from overread.search.single import train_one
    from overread.search.teachers import with_teacher

    trial = read_trial_config(config)
    if (out / "job.json").exists() and not (resume or overwrite):
        raise UserError(f"{out} must not hold a training, but it does: give --resume, --overwrite or another --out")
    with working(address, cpus, gpus_per_worker, data=data, out=out, cache=cache, teacher=teacher) as map_cases:
        prepared = stages.prepare(data, _options.prepare_settings(options), cache, map_cases)
        trial = with_teacher(trial, teacher, prepared) if teacher is not None else trial
        outcome = train_one(
            prepared, trial, out, workers=workers_per_trial, gpus_per_worker=gpus_per_worker, fresh=overwrite
        )
    click.echo(f"{outcome.state}: validation Dice {outcome.variants[0].dice:.4f}, {outcome.parameters:,} parameters")
    click.echo(f"weights: {(out / str(outcome.weights)).resolve()}")
