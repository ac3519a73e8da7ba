"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from overread.cli._durations import DURATION
from overread.errors import UserError
from overread.records import PrepareSettings

Command = TypeVar("Command", bound=Callable[..., Any])

SIZE_CPU, SIZE_GPU = 96, 256
FOLDER = click.Path(path_type=Path, file_okay=False)
DICE = click.FloatRange(0, 1, min_open=True)
FAILURE_HELP = "A case of lower Dice is a failure"
TEACHER_HELP = "Folder of `overread pretrain`, whose attention maps dai_net takes; several are compared."


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data = click.option("--data", type=FOLDER, required=True, help="Data set: MSD, nnU-Net v2 raw, or images/ and masks/.")
out = click.option("--out", type=FOLDER, required=True, help="Run folder.")
cache = click.option("--cache", type=FOLDER, help="Prepared arrays [default: $OVERREAD_CACHE or ~/.cache/overread].")
seed = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
tracking = click.option("--tracking-uri", help="MLflow store or server [default: mlflow.db in the run folder].")
existing = _stack(
    click.option("--resume", is_flag=True, help="Continue the run in --out."),
    click.option("--overwrite", is_flag=True, help="Delete the run in --out first."),
)
cluster = _stack(
    click.option("--address", help="Ray cluster [default: $RAY_ADDRESS, or a local one of its own]."),
    click.option("--cpus", type=click.IntRange(1), help="Logical CPUs of a local Ray [default: all cores]."),
)
reference = click.option("--reference", help="Annotator who is the truth [default: majority per voxel].")
empty_annotation = click.option(
    "--empty-annotation",
    type=click.Choice(["background", "ignore"]),
    default="background",
    show_default=True,
    help="What an empty label of one of several annotators says: nothing there, or not annotated.",
)
preparation = _stack(
    click.option("--axis", type=click.IntRange(0, 2), help="Slice volumes along it [default: largest spacing]."),
    click.option("--size", type=click.IntRange(16), help="Longest side in pixels [default: 96, with GPUs 256]."),
    click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Folds to cut the rest into."),
    click.option("--group-pattern", help="Regular expression that finds the patient in a case's name."),
    reference,
    empty_annotation,
    click.option(
        "--window", help="LOW,HIGH in HU that CT is clipped to and scaled from to 0..1 [default: percentiles]."
    ),
    click.option("--labels", help="Comma-separated values in the label files that stay classes [default: all]."),
    click.option("--locked-pattern", help="Regular expression that finds the locked cases [default: a random fifth]."),
)
OBJECTIVES = ["dice", "gain", "gain_and_failure"]
OBJECTIVE_HELP = "What is searched for: a trial's own Dice, or what it adds to the ensemble of the trials before it."
searching = _stack(
    click.option("--space", default="panel", show_default=True, help="Search space, by file name."),
    click.option("--spaces", type=FOLDER, help="Folder of search spaces instead of the built-in ones."),
    click.option("--architectures", help="Comma-separated names, or all [default: the panel's own]."),
    click.option("--trials", type=click.IntRange(1), help="Trainings at the most."),
    click.option("--workers-per-trial", default="1", show_default=True, help="Workers; '1,2' mixes both."),
    click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True),
    click.option("--max-concurrent", type=click.IntRange(1), help="Trials at a time [default: what fits]."),
    click.option("--teacher", "teachers", type=FOLDER, multiple=True, help=TEACHER_HELP),
    click.option("--objective", type=click.Choice(OBJECTIVES), default="dice", show_default=True, help=OBJECTIVE_HELP),
    click.option("--points", type=click.Choice(["fit", "published"]), default="fit", show_default=True),
)
time_budget = click.option("--time-budget", type=DURATION, help="Wall time, such as 90s, 30m or 1h30m.")
SELECT_HELP = (
    "Members by the validation Dice of each alone, or greedily by that of the ensemble "
    "[default: greedy unless --objective is dice]."
)
select = click.option("--select", type=click.Choice(["rule", "greedy"]), help=SELECT_HELP)
top = click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Members at the most.")

member = click.option(
    "--member",
    "folders",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Masks or probabilities of another tool or a person, by case name: a member without training; repeatable.",
)
coverage = click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Chance that the true Dice is at or above dice_lower_bound.",
)


def named_folders(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Parse `NAME=FOLDER`; anything else, a folder that is none, or a name given twice raises `UserError`."""
    folders: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise UserError(f"{option} must be NAME=FOLDER with a folder of masks, but got '{text}'")
        if not Path(folder).is_dir():
            raise UserError(f"{option} {name} must be a folder of masks, but {folder} is none: check the path")
        if name in folders:
            raise UserError(f"{option} must have a new name each time, but {name} is there twice: rename one")
        folders[name] = Path(folder)
    return folders


def first_relative(folders: Mapping[str, Path]) -> Path | None:
    """Return a folder whose path is relative, which a cluster refuses; None if there is none."""
    return next((folder for folder in folders.values() if not folder.is_absolute()), None)


def prepare_settings(options: Mapping[str, Any]) -> PrepareSettings:
    """Collect the options of `preparation` and the seed into a record."""
    return PrepareSettings(
        axis=options["axis"],
        max_side=options["size"] or (SIZE_GPU if options.get("gpus_per_worker") else SIZE_CPU),
        folds=options["folds"],
        group_pattern=options["group_pattern"],
        reference=options["reference"],
        empty_annotation=options["empty_annotation"],
        window=_window(options.get("window")),
        labels=_labels(options.get("labels")),
        locked_pattern=options.get("locked_pattern"),
        seed=options["seed"],
    )


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--window must be LOW,HIGH such as -125,275, but got '{text}'") from None
    return low, high


def _labels(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(f"--labels must be whole numbers such as 1,2,3, but got '{text}'") from None
