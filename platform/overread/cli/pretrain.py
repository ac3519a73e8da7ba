"""`overread pretrain`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overread.cli import _options
from overread.cli._durations import DURATION
from overread.cli._session import working
from overread.errors import UserError

if TYPE_CHECKING:
    from overread.training.dino import PretrainConfig

START_HELP = "Weights that the ViT starts from, such as DINO's .pth or a .safetensors [default: random]."
CONFIG_HELP = "Pretraining config (JSON, as in pretrain.json) instead of the options above."
DIVISOR = {"warm_up_epochs": 10, "temperature_epochs": 4}
"""Epochs per epoch of these phases, where a training is too short for their published lengths."""


@click.command()
@_options.data
@_options.out
@click.option("--vit", type=click.Choice(["tiny", "small"]), default="tiny", show_default=True, help="DAI-Net: small.")
@click.option("--patch", type=int, default=16, show_default=True, help="Side of a patch in pixels: 8, 16 or 32.")
@click.option("--depth", type=click.IntRange(1), default=12, show_default=True, help="Transformer blocks.")
@click.option("--image-size", type=click.IntRange(1), help="Side of the global crops [default: --size].")
@click.option("--local-size", type=click.IntRange(1), help="Side of the local crops [default: about 3/8 of it].")
@click.option("--local-crops", type=click.IntRange(0), default=4, show_default=True, help="Per image; DINO: 8.")
@click.option("--outputs", type=click.IntRange(2), default=4096, show_default=True, help="Of the head; DINO: 65536.")
@click.option("--head-batch-norm", is_flag=True, help="DINO's use_bn_in_head: against collapse in small batches.")
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True, help="DAI-Net: 800.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Over all workers.")
@click.option("--learning-rate", type=float, default=1e-4, show_default=True)
@click.option("--start", type=click.Path(path_type=Path, dir_okay=False), help=START_HELP)
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help=CONFIG_HELP)
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="Its cases validate: not seen.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Training processes.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--time-budget", type=DURATION, help="Stop after so long; --resume goes on.")
@_options.preparation
@_options.existing
@_options.cache
@_options.tracking
@_options.seed
@_options.cluster
def pretrain(data: Path, out: Path, fold: int, workers: int, gpus_per_worker: float, **options: Any) -> None:
    """Train a DINO teacher without labels: dai_net takes its attention maps (--teacher of train, search and run).

    It sees the training images of the fold and the unlabelled ones (imagesTs), and none of locked, calibration or
    validation cases: give --seed, --folds and --group-pattern as for the search.
    """
    from overread.pipeline import stages
    from overread.search.pretraining import pretrain_teacher
    from overread.tracking.pretraining import PretrainTracker
    from overread.tracking.store import resolve_uri

    if (out / "job.json").exists() and not (options["resume"] or options["overwrite"]):
        raise UserError(f"{out} must not hold a training, but it does: give --resume, --overwrite or another --out")
    prepare = replace(_options.prepare_settings(options | {"gpus_per_worker": gpus_per_worker}), unlabelled=True)
    config = pretrain_config(options | {"image_size": options["image_size"] or prepare.max_side})
    budget, cache = options["time_budget"], options["cache"]
    deadline = None if budget is None else time.time() + budget
    paths = {"data": data, "out": out, "cache": cache, "start": options["start"]}
    with working(options["address"], options["cpus"], gpus_per_worker, **paths) as map_cases:
        prepared = stages.prepare(data, prepare, cache, map_cases)
        out.mkdir(parents=True, exist_ok=True)
        uri = resolve_uri(options["tracking_uri"], out)
        outcome = pretrain_teacher(
            prepared,
            config,
            out,
            fold=fold,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            deadline=deadline,
            tracker=PretrainTracker(uri, prepared.dataset, f"pretrain {out.resolve()}"),
            fresh=options["overwrite"],
        )
    if outcome is None:
        raise UserError(f"--time-budget must leave time to train, but {budget:g} s did not: raise it")
    if outcome.warning:
        click.echo(f"warning: {outcome.warning}", err=True)
    click.echo(f"{outcome.state}: {outcome.steps:,} steps on {outcome.images:,} slices, {outcome.seconds:.0f} s")
    click.echo(f"next: overread train, search or run with --teacher {out.resolve()}")


def pretrain_config(options: Mapping[str, Any]) -> PretrainConfig:
    """Return the config that the options describe, or that of a file; wrong ones raise `UserError`."""
    from overread.architectures.vit import ViTOptions
    from overread.jsonio import read_json
    from overread.training.dino import PretrainConfig
    from overread.training.multi_crop import MultiCrop

    if options["config"] is not None:
        found = read_json(options["config"])
        return PretrainConfig.from_json(found["config"] if isinstance(found, dict) and "config" in found else found)
    patch, epochs, start = options["patch"], options["epochs"], options["start"]
    vit = ViTOptions(size=options["vit"], patch=patch, depth=options["depth"])
    size = -(-options["image_size"] // patch) * patch
    local = options["local_size"] or max(1, round(0.375 * size / patch)) * patch
    usual = PretrainConfig()
    return PretrainConfig(
        vit=vit,
        crops=MultiCrop(size=size, local_size=local, local_crops=options["local_crops"]),
        start=None if start is None else str(start.resolve()),
        outputs=options["outputs"],
        head_batch_norm=options["head_batch_norm"],
        batch_size=options["batch_size"],
        epochs=epochs,
        learning_rate=options["learning_rate"],
        warm_up_epochs=min(usual.warm_up_epochs, epochs // DIVISOR["warm_up_epochs"]),
        temperature_epochs=min(usual.temperature_epochs, epochs // DIVISOR["temperature_epochs"]),
        frozen_epochs=min(usual.frozen_epochs, epochs // 10),
        seed=options["seed"],
    )
