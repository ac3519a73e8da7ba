"""From the options of a command to the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.cli._options import prepare_settings
from overread.errors import UserError

if TYPE_CHECKING:
    from overread.pipeline.run import RunSettings
    from overread.search.settings import SearchSettings

PATHS = ("data", "out", "cache", "spaces")


def run_settings(options: Mapping[str, Any]) -> RunSettings:
    """Collect the options of `run`, `search` or `demo` into a record; wrong ones raise `UserError`."""
    from overread.pipeline.run import RunSettings

    return RunSettings(
        data=options["data"],
        out=options["out"],
        prepare=prepare_settings(options),
        search=search_settings(options),
        cache=options["cache"],
        tracking_uri=options["tracking_uri"],
        resume=options["resume"],
        overwrite=options["overwrite"],
        **{name: options[name] for name in ("top", "select", "coverage") if name in options},
    )


def search_settings(options: Mapping[str, Any]) -> SearchSettings:
    """Collect the options of `searching` into a record; wrong ones raise `UserError`."""
    from overread.search.settings import SearchSettings

    spaces: Path | None = options["spaces"]
    return SearchSettings(
        space=options["space"],
        spaces_dir=str(spaces.resolve()) if spaces else None,
        architectures=tuple(filter(None, (options["architectures"] or "").split(","))),
        trials=options["trials"],
        time_budget_s=options["time_budget"],
        workers_per_trial=_workers(options["workers_per_trial"]),
        gpus_per_worker=options["gpus_per_worker"],
        max_concurrent=options["max_concurrent"],
        points=options["points"],
        objective=options.get("objective", "dice"),
        cpus=options["cpus"],
        seed=options["seed"],
        resume=options["resume"],
        teachers=tuple(str(folder.resolve()) for folder in options.get("teachers", ())),
    )


def paths(options: Mapping[str, Any]) -> dict[str, Path | None]:
    """Return the options that are paths, which must be absolute on a cluster; of teachers the first that is not."""
    relative = next((folder for folder in options.get("teachers", ()) if not folder.is_absolute()), None)
    return {name: options.get(name) for name in PATHS} | ({} if relative is None else {"teacher": relative})


def _workers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UserError(f"--workers-per-trial must be whole numbers such as 2 or 1,2, but got '{text}'")
    return tuple(int(part) for part in parts)
