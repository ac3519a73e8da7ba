"""Everything about a search that can be refused before anything is written."""

from __future__ import annotations

from types import ModuleType

from overread.cluster.session import Resources, require_gpus
from overread.records import Prepared
from overread.search import budget
from overread.search.settings import SearchSettings
from overread.search.space import (
    SpaceContext,
    fitting_architectures,
    load_space,
    make_config,
    points,
    space_architectures,
)
from overread.search.teachers import read_teachers


def check_search(settings: SearchSettings, cpus: int, gpus: float = 0.0, prepared: Prepared | None = None) -> None:
    """Raise `UserError` for a search that cannot run on a cluster: space, architectures, workers, GPUs.

    `cpus` and `gpus` are those of the cluster; the settings' own limit of CPUs counts too. With `prepared` also the
    fold, the points of the space and the configs that they become.
    """
    require_gpus(
        settings.gpus_per_worker * min(settings.workers_per_trial),
        Resources(cpus=cpus, gpus=gpus, nodes=1, cpus_per_node=cpus),
    )
    module = load_space(settings.space, settings.spaces_dir)
    families = space_architectures(settings.space, module, settings.architectures)
    widths = {family: budget.candidate_widths(budget.published_width(family)) for family in families}
    usable = cpus if settings.cpus is None else min(cpus, settings.cpus)
    budget.share_cpus(settings, usable, gpus, budget.TRAININGS_PER_FAMILY * len(families))
    if prepared is None:
        return
    prepared.splits.fold(settings.fold)
    families = fitting_architectures(settings.space, module, settings.architectures, prepared)
    dims = prepared.preprocessing.spatial_dims
    context = SpaceContext(
        spatial_dims=dims,
        volumetric=dims == 3,
        widths=widths,
        batch_sizes=dict.fromkeys(families, 1),
        architectures=families,
        classes=prepared.classes,
        in_channels=len(prepared.preprocessing.channels),
        teachers=read_teachers(settings.teachers, prepared, settings.fold),
    )
    check_points(module, context, settings, prepared)


def check_points(module: ModuleType, context: SpaceContext, settings: SearchSettings, prepared: Prepared) -> None:
    """Raise `UserError` for a point that does not lie in its space or does not make a config."""
    for point in points(module, context):
        suggestion = budget.suggest_point(module, context, point, settings.seed)
        make_config(suggestion, prepared, context, steps=1, fold=settings.fold, seed=settings.seed)
