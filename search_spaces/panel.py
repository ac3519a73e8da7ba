"""The space of all families: choose the architecture, then ask its own space. `DEFAULT` are those of a plain search.

The spaces are the other files of this folder, loaded by path: a folder given with `--spaces` works the same way.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

DEFAULT = ("unet", "unet_sharp", "unetmer")
"""Searched unless `--architectures` names others: few enough that each gets full trainings out of a small budget."""
FIRST = "unet"
"""Its first point is the bare baseline, which a search tries before anything else."""


@cache
def load_family(name: str) -> ModuleType:
    """Import the space of one architecture from its file beside this one."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"overread_space_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"the space of '{name}' must be the Python file {path}, but it cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def families() -> list[str]:
    """Return the architectures with a space here, the baseline's first."""
    here = Path(__file__)
    names = {file.stem for file in here.parent.glob("*.py") if not file.stem.startswith("_")} - {here.stem}
    return sorted(names, key=lambda name: (name != FIRST, name))


def _points() -> list[dict[str, Any]]:
    """Return one point of each family, then the second of each, and so on."""
    columns = [[{"architecture": name, **point} for point in load_family(name).POINTS] for name in families()]
    return [point for point in chain.from_iterable(zip_longest(*columns)) if point is not None]


POINTS: list[dict[str, Any]] = _points()


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw an architecture and then a setting of it."""
    name = trial.suggest_categorical("architecture", list(context.architectures))
    return {"architecture": name, **load_family(name).suggest(trial, context)}
