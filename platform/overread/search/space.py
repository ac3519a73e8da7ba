"""Search spaces: files by path, what they are told, and the trial config that their suggestion becomes.

Space files are read on the driver only; trials get the finished config. So nothing there has to be importable on a
worker, and a user's own folder of spaces works like the built-in one.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from overread.errors import UserError, unknown_name
from overread.records import AugmentConfig, OptimiserConfig, Prepared, TrialConfig

log = logging.getLogger(__name__)
ALL = "all"
"""Instead of names of architectures: every family of a joint space."""


@dataclass(frozen=True, kw_only=True)
class SpaceContext:
    """What a space's `suggest(trial, context)` may know of data and budget."""

    spatial_dims: int
    """Of the data: 2 for images, 3 for volumes."""
    volumetric: bool
    """3-D networks may be suggested."""
    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Widths that fit the budget, by architecture."""
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    """Batch size that fits the budget, by architecture."""
    architectures: tuple[str, ...] = ()
    classes: int = 2
    in_channels: int = 1
    teachers: tuple[Mapping[str, Any], ...] = ()
    """Options of the sources of attention maps: pretrained teachers, in the order they were given."""


def spaces_folder(spaces_dir: str | Path | None = None) -> Path:
    """Return the folder of space files: the given one, or that of overread (in the wheel or the working tree)."""
    if spaces_dir is not None:
        return Path(spaces_dir)
    tree = Path(__file__).resolve().parents[3] / "search_spaces"
    if tree.is_dir():
        return tree
    found = importlib.util.find_spec("search_spaces")
    if found is None or not found.submodule_search_locations:
        raise UserError("search_spaces must be installed with overread, but is missing: install again or give --spaces")
    return Path(next(iter(found.submodule_search_locations)))


def known_spaces(spaces_dir: str | Path | None = None) -> tuple[str, ...]:
    """Return the names of all spaces of a folder."""
    files = spaces_folder(spaces_dir).glob("*.py")
    return tuple(sorted(path.stem for path in files if not path.stem.startswith("_")))


def load_space(name: str, spaces_dir: str | Path | None = None) -> ModuleType:
    """Load the module of a space by its file; an unknown name raises `UserError` with the known ones."""
    if name not in known_spaces(spaces_dir):
        raise unknown_name("space", name, known_spaces(spaces_dir))
    path = spaces_folder(spaces_dir) / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"overread_space_{name}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"space file {path} must be Python, but cannot be loaded")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    _check_module(module, path)
    return module


def space_architectures(name: str, module: ModuleType, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the families to search: of a joint space the `chosen`, else its `DEFAULT`, in the order of its points.

    `all` chooses every family that the points name. A space of one family with another name than its architecture says
    so in `ARCHITECTURE`.
    """
    named = dict.fromkeys(point["architecture"] for point in module.POINTS if "architecture" in point)
    found = tuple(named) or (getattr(module, "ARCHITECTURE", name),)
    if ALL in chosen:
        return found
    for architecture in chosen:
        if architecture not in found:
            raise unknown_name("architecture of this space", architecture, (ALL, *found))
    wanted = chosen or getattr(module, "DEFAULT", found)
    return tuple(architecture for architecture in found if architecture in wanted)


def fitting_architectures(name: str, module: ModuleType, chosen: Sequence[str], prepared: Prepared) -> tuple[str, ...]:
    """Return the families to search that the data can train; of `all` the others are left out, a named one raises."""
    families = space_architectures(name, module, chosen)
    reasons = {family: reason for family in families if (reason := unsuited(family, prepared))}
    if reasons and ALL not in chosen:
        raise UserError(*(f"{family} {reason}: choose another architecture" for family, reason in reasons.items()))
    for family, reason in reasons.items():
        log.info("%s is left out: it %s", family, reason)
    return tuple(family for family in families if family not in reasons)


def unsuited(family: str, prepared: Prepared) -> str | None:
    """Return why an architecture cannot be trained on the data at any setting, or None."""
    import torch

    from overread.architectures import ARCHITECTURES
    from overread.training.worker import too_small

    architecture = ARCHITECTURES[family]
    dims = prepared.preprocessing.spatial_dims
    if min(architecture.spatial_dims) > dims:
        return f"must have volumes, but data set '{prepared.dataset}' holds images"
    with torch.device("meta"):
        built = architecture.build({}, in_channels=1, classes=2, spatial_dims=min(architecture.spatial_dims))
    if built.needs.instances and not all(case.instances for case in prepared.cases):
        return f"must have instances of every case, but data set '{prepared.dataset}' lacks them"
    return too_small(built.needs, prepared)


def points(module: ModuleType, context: SpaceContext) -> tuple[dict[str, Any], ...]:
    """Return the points to try first: those of the chosen families, each at the largest width that fits."""
    (*_, only) = context.architectures
    result = []
    for point in module.POINTS:
        family = point.get("architecture", only)
        if family in context.architectures:
            widths = context.widths.get(family)
            width = {f"{family}/width": max(widths)} if widths else {}
            result.append(width | dict(point))
    return tuple(result)


def family_of(suggestion: Mapping[str, Any], context: SpaceContext) -> str:
    """Return the architecture of a suggestion; a space of one family need not name it."""
    return str(suggestion.get("architecture", context.architectures[0]))


def size_multiple(config: TrialConfig) -> int:
    """Return what spatial sizes must be multiples of, from the network built without memory."""
    import torch

    from overread.architectures import build_segmenter

    with torch.device("meta"):
        return build_segmenter(config).needs.size_multiple


def make_config(
    suggestion: Mapping[str, Any],
    prepared: Prepared,
    context: SpaceContext,
    *,
    steps: int | None = None,
    train_seconds: float | None = None,
    epochs: int = 10,
    fold: int = 0,
    seed: int = 0,
    baseline: bool = False,
) -> TrialConfig:
    """Turn a suggestion into the frozen config of a trial. A wrong one raises `UserError`."""
    from overread.data.batches import default_patch_size

    known = {"architecture", "options", "losses", "optimiser", "augment", "spatial_dims", "batch_size"}
    unknown = sorted(set(suggestion) - known)
    if unknown:
        raise UserError(f"a suggestion must have only the keys {sorted(known)}, but got {unknown}")
    dims = int(suggestion.get("spatial_dims", 2))
    config = TrialConfig(
        architecture=family_of(suggestion, context),
        options=dict(suggestion["options"]),
        losses=dict(suggestion.get("losses", {})),
        spatial_dims=dims,
        in_channels=context.in_channels,
        classes=context.classes,
        patch_size=(1,) * dims,
        batch_size=int(suggestion.get("batch_size", 16)),
        steps=steps,
        train_seconds=train_seconds if steps is None else None,
        epochs=epochs,
        optimiser=OptimiserConfig.from_json(suggestion.get("optimiser", {})),
        augment=AugmentConfig.from_json(suggestion.get("augment", {})),
        fold=fold,
        seed=seed,
        baseline=baseline,
    )
    return replace(config, patch_size=default_patch_size(prepared, dims, size_multiple(config)))


def _check_module(module: ModuleType, path: Path) -> None:
    missing = [name for name in ("suggest", "POINTS") if not hasattr(module, name)]
    if missing:
        raise UserError(f"space file {path} must define suggest and POINTS, but lacks {', '.join(missing)}")
