"""`overread train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from overread.cli import _options
from overread.cli._session import working
from overread.errors import UserError

CONFIG_HELP = "Trial config (JSON): config.json of an MLflow run, or job.json or outcome.json of a trial's folder."
DATA_HELP = "Data set of --config: MSD, nnU-Net v2 raw, or images/ and masks/."
TEACHER_HELP = "Folder of `overread pretrain` whose attention maps dai_net takes [default: as the config says]."
WINNERS_HELP = "Run whose winners are trained again on all cases but locked and calibration ones: a deep ensemble."


@click.command()
@click.option("--data", type=_options.FOLDER, help=DATA_HELP)
@_options.out
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help=CONFIG_HELP)
@click.option("--winners", type=_options.FOLDER, help=WINNERS_HELP)
@click.option("--seeds", type=click.IntRange(1), help="With --winners: trainings of each, with new seeds [default: 3].")
@_options.coverage
@click.option("--teacher", type=_options.FOLDER, help=TEACHER_HELP)
@click.option("--workers-per-trial", type=click.IntRange(1), default=1, show_default=True, help="Training processes.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@_options.preparation
@_options.existing
@_options.cache
@_options.seed
@_options.cluster
def train(winners: Path | None, seeds: int | None, **options: Any) -> None:
    """Train one configuration (--data, --config), or the winners of a run again as a deep ensemble (--winners).

    A deep ensemble takes data, preparation and steps from the run: each winner is trained --seeds times, in parallel,
    for as many passes over the cases as its own weights had. OUT becomes a run folder with the calibrated package in
    OUT/ensemble; `overread evaluate --out OUT` reads the locked split with it.
    """
    if winners is None:
        if seeds is not None:
            raise UserError("--seeds needs --winners, but that was not given: add it")
        _train_one(**options)
    elif options["data"] or options["config"] or options["teacher"]:
        raise UserError("--winners excludes --data, --config and --teacher, but one was given: the run has all three")
    else:
        _retrain(winners, seeds or 3, **options)


def _retrain(
    winners: Path,
    seeds: int,
    *,
    out: Path,
    coverage: float,
    workers_per_trial: int,
    gpus_per_worker: float,
    resume: bool,
    overwrite: bool,
    address: str | None,
    cpus: int | None,
    **_: Any,
) -> None:
    from overread.pipeline.calibrating import judgement_lines
    from overread.pipeline.retraining import retrain

    with working(address, cpus, gpus_per_worker, winners=winners, out=out) as map_cases:
        frozen, judgement = retrain(
            winners,
            out,
            map_cases,
            seeds=seeds,
            workers=workers_per_trial,
            gpus_per_worker=gpus_per_worker,
            coverage=coverage,
            resume=resume,
            overwrite=overwrite,
        )
    click.echo(f"rule: {frozen.rule}")
    for member in frozen.members:
        click.echo(f"member: {member.name}, {member.variant}, {member.config.steps} steps")
    for line in judgement_lines(judgement):
        click.echo(line)
    click.echo(f"package: {(out / 'ensemble').resolve()}")


def _train_one(
    *,
    data: Path | None,
    out: Path,
    config: Path | None,
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
    from overread.pipeline import stages
    from overread.pipeline.configs import read_trial_config
    from overread.search.single import train_one
    from overread.search.teachers import with_teacher

    if data is None or config is None:
        raise UserError("give --data and --config, or --winners RUN: one of the two is needed")
    trial = read_trial_config(config)
    if (out / "job.json").exists() and not (resume or overwrite):
        raise UserError(f"{out} must not hold a training, but it does: give --resume, --overwrite or another --out")
    with working(address, cpus, gpus_per_worker, data=data, out=out, cache=cache, teacher=teacher) as map_cases:
        prepared = stages.prepare(data, _options.prepare_settings(options), cache, map_cases)
        trial = with_teacher(trial, teacher, prepared) if teacher is not None else trial
        outcome = train_one(
            prepared, trial, out, workers=workers_per_trial, gpus_per_worker=gpus_per_worker, fresh=overwrite
        )
    dice = f"validation Dice {outcome.variants[0].dice:.4f}" if outcome.variants else "no validation cases"
    click.echo(f"{outcome.state}: {dice}, {outcome.parameters:,} parameters")
    click.echo(f"weights: {(out / str(outcome.weights)).resolve()}")
