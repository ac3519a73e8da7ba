"""From a time budget to trials: seconds for each, how many at once, and the widths of networks that fit.

The published widths cost minutes to an hour per epoch on a laptop. A timed optimiser step per architecture and width
finds the largest batch and width that still get enough steps, so that every family has at least three full trainings.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from overread.cluster.session import threads_each
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Prepared, TrialConfig
from overread.search.settings import SearchSettings
from overread.search.space import SpaceContext, fitting_architectures, load_space, make_config, points
from overread.search.teachers import read_teachers, takes_maps

log = logging.getLogger(__name__)
WIDTHS = (8, 12, 16, 24, 32, 48, 64)
BATCH_SIZES_CPU, BATCH_SIZES_GPU = (8, 4), (16, 8)
"""Tried in this order: in a short training the number of steps matters more than the samples of each."""
TRAININGS_PER_FAMILY = 3
TRAINING_SHARE = 0.8
"""Share of a trial's seconds that trains; the rest validates, starts and evaluates."""
SHORTEST, LONGEST, WITHOUT_BUDGET = 20.0, 1800.0, 60.0
"""Bounds of the seconds of a trial, and its seconds when only a number of trials is given."""
Timer = Callable[[TrialConfig], float]
"""Gives the seconds of one optimiser step."""


@dataclass(frozen=True, kw_only=True)
class BudgetPlan(JsonRecord):
    """What a search will do; kept in its folder, so that a resumed search has the same space."""

    seconds: float | None
    """For the whole search; None: as long as its trials take."""
    trials: int | None
    """None: as many as fit."""
    seconds_per_trial: float
    train_seconds: float
    epochs: int
    concurrency: int
    """Trials at once, when all have the fewest workers."""
    slots: int
    """Workers at once."""
    threads: int
    """Per worker."""
    architectures: tuple[str, ...]
    widths: dict[str, tuple[int, ...]]
    batch_sizes: dict[str, int]
    """Offered to the space, by architecture."""
    step_seconds: dict[str, float]
    """Timed step of the largest offered width, by architecture."""
    prepared: str
    """`Prepared.content`: a search stays with its data."""
    teachers: tuple[dict[str, Any], ...] = ()
    """Options of the sources of attention maps."""

    @property
    def expected_trials(self) -> int:
        """Trials that fit (or were asked for)."""
        if self.trials is not None:
            return self.trials
        fitting = int((self.seconds or 0.0) * self.concurrency / self.seconds_per_trial)
        return max(len(self.architectures), fitting)


@dataclass(frozen=True, kw_only=True)
class PlannedFamily(JsonRecord):
    """One row of a dry run."""

    architecture: str
    widths: tuple[int, ...]
    batch_size: int
    step_seconds: float
    steps_per_trial: int
    trials: int
    """Expected: an equal share."""
    minutes: float
    """Expected wall-clock of those trials, one at a time."""


def plan(
    prepared: Prepared,
    settings: SearchSettings,
    seconds: float | None = None,
    *,
    cpus: int = 1,
    gpus: float = 0.0,
    cpus_per_node: int | None = None,
    timer: Timer | None = None,
) -> BudgetPlan:
    """Plan a search of `seconds` (default: the settings' budget) by timing steps here.

    `cpus_per_node`: of the largest node; None: all CPUs are of one.

    Raises `UserError` for an unknown space or architecture, or when a trial needs more workers than there are CPUs.
    """
    module = load_space(settings.space, settings.spaces_dir)
    families = fitting_architectures(settings.space, module, settings.architectures, prepared)
    seconds = settings.time_budget_s if seconds is None else seconds
    concurrency, slots, threads = share_cpus(settings, cpus, gpus, TRAININGS_PER_FAMILY * len(families), cpus_per_node)
    at_once = slots * len(settings.workers_per_trial) / sum(settings.workers_per_trial)
    per_trial = settings.seconds_per_trial or trial_seconds(seconds, at_once, len(families), settings.trials)
    train_seconds = TRAINING_SHARE * per_trial
    draft = BudgetPlan(
        seconds=seconds,
        trials=settings.trials,
        seconds_per_trial=per_trial,
        train_seconds=train_seconds,
        epochs=settings.epochs or epochs_for(train_seconds),
        concurrency=concurrency,
        slots=slots,
        threads=threads,
        architectures=families,
        widths={},
        batch_sizes={},
        step_seconds={},
        prepared=prepared.content,
        teachers=read_teachers(settings.teachers, prepared, settings.fold),
    )
    for family in families:
        if takes_maps(family) and not draft.teachers:
            log.warning("%s has maps of random weights, a trial of the machinery only: give it a --teacher", family)
    timer = timer or _timer(prepared, settings, threads)
    for family in families:
        fit = _fit(prepared, settings, draft, module, family, timer)
        draft = replace(
            draft,
            widths=draft.widths | {family: fit.widths},
            batch_sizes=draft.batch_sizes | {family: fit.batch_size},
            step_seconds=draft.step_seconds | {family: fit.step_seconds},
        )
    return draft


def trial_seconds(seconds: float | None, concurrency: float, families: int, trials: int | None) -> float:
    """Return the wall-clock seconds of one trial: three trainings per family (or the trials asked for) fill the budget.

    >>> trial_seconds(600, 2, 3, None)
    133.33333333333334
    """
    if seconds is None:
        return WITHOUT_BUDGET
    wanted = trials if trials is not None else TRAININGS_PER_FAMILY * families
    rounds = math.ceil(wanted / concurrency)  # a last, half-empty round takes as long as a full one
    return min(LONGEST, max(SHORTEST, min(seconds * concurrency / wanted, seconds / rounds if trials else seconds)))


def epochs_for(train_seconds: float) -> int:
    """Return how many validations a trial gets: one for every 8 seconds, from 4 to 10."""
    return min(10, max(4, int(train_seconds // 8)))


def share_cpus(
    settings: SearchSettings, cpus: int, gpus: float, most: int, cpus_per_node: int | None = None
) -> tuple[int, int, int]:
    """Return trials at once, workers at once, and threads per worker (never more than a node has CPUs).

    Without `max_concurrent`, as many trials as there are threads for (1 thread up to 8 CPUs, then 2, 4 from 33), on
    GPUs as many as their shares allow, and never more than `most`.
    """
    fewest, largest = min(settings.workers_per_trial), max(settings.workers_per_trial)
    usable = min(cpus, int(gpus / settings.gpus_per_worker)) if settings.gpus_per_worker else cpus
    if settings.max_concurrent is not None:
        concurrency = settings.max_concurrent
    else:
        wish = 1 if settings.gpus_per_worker or cpus <= 8 else 2 if cpus <= 32 else 4
        concurrency = max(1, min(usable // (fewest * wish), most))
    if max(largest, concurrency * fewest) > usable:
        raise UserError(
            f"workers must find a CPU{' and their share of a GPU' if settings.gpus_per_worker else ''} each, but "
            f"{max(largest, concurrency * fewest)} workers share {cpus} CPUs and {gpus:g} GPUs: "
            "use fewer --workers-per-trial or --max-concurrent"
        )
    slots = max(concurrency * fewest, largest)
    return concurrency, slots, threads_each(slots, cpus, min(cpus, cpus_per_node or cpus))


def make_context(prepared: Prepared, plan: BudgetPlan) -> SpaceContext:
    """Return what the space may know, from the data and the plan."""
    dims = prepared.preprocessing.spatial_dims
    return SpaceContext(
        spatial_dims=dims,
        volumetric=dims == 3,
        widths=plan.widths,
        batch_sizes=plan.batch_sizes,
        architectures=plan.architectures,
        classes=prepared.classes,
        in_channels=len(prepared.preprocessing.channels),
        teachers=plan.teachers,
    )


def dry_run(plan: BudgetPlan) -> tuple[PlannedFamily, ...]:
    """Return one row per family: sizes, steps, trials and expected minutes."""
    share = -(-plan.expected_trials // len(plan.architectures))
    return tuple(
        PlannedFamily(
            architecture=family,
            widths=plan.widths[family],
            batch_size=plan.batch_sizes[family],
            step_seconds=plan.step_seconds[family],
            steps_per_trial=int(plan.train_seconds / plan.step_seconds[family]),
            trials=share,
            minutes=share * plan.seconds_per_trial / 60,
        )
        for family in plan.architectures
    )


def candidate_widths(published: int | None) -> tuple[int, ...]:
    """Return the widths to time: the table up to the published one, which is the last."""
    if published is None:
        return WIDTHS
    return (*(width for width in WIDTHS if width < published), published)


def steps_of_passes(prepared: Prepared, settings: SearchSettings, config: TrialConfig) -> float:
    """Return the steps in which a config sees every training slice `min_passes` times; 0 for patches of volumes."""
    if config.spatial_dims == 3:
        return 0.0
    train = set(prepared.splits.fold(settings.fold).train)
    slices = sum(case.shape[0] for case in prepared.cases if case.id in train)
    return settings.min_passes * slices / config.batch_size


@dataclass(frozen=True)
class Fit:
    """Sizes of a family that fit the budget."""

    widths: tuple[int, ...]
    """The largest that fits and the next smaller one."""
    batch_size: int
    step_seconds: float
    """Of the largest width."""


def _fit(
    prepared: Prepared,
    settings: SearchSettings,
    draft: BudgetPlan,
    module: ModuleType,
    family: str,
    timer: Timer,
) -> Fit:
    """Return the batch that allows enough steps at the smallest width, then the width that also allows enough passes.

    Sizes are timed from cheap to dear, so that the first one that does not fit costs little. If none fits, the
    smallest is taken: fewer steps are better than none.
    """
    widths = candidate_widths(published_width(family))
    if settings.points == "published":
        widths = widths[-1:]
    # The papers' own widths are what was asked for with published points: nothing is to be fitted.
    allowed = float("inf") if settings.points == "published" else draft.train_seconds / settings.min_steps
    batch_size, step, passes = 0, 0.0, 0.0
    for batch_size in BATCH_SIZES_GPU if settings.gpus_per_worker else BATCH_SIZES_CPU:
        example = _example(prepared, settings, draft, module, family, widths[0], batch_size)
        step, passes = timer(example), steps_of_passes(prepared, settings, example)
        if step <= allowed:
            break
    if passes and settings.points != "published":
        allowed = min(allowed, draft.train_seconds / passes)
    fitting = widths[:1]
    for width in widths[1:] if step <= allowed else ():
        wider = timer(_example(prepared, settings, draft, module, family, width, batch_size))
        if wider > allowed:
            break
        fitting, step = (*fitting, width), wider
    return Fit(widths=fitting[-2:], batch_size=batch_size, step_seconds=step)


def _example(
    prepared: Prepared,
    settings: SearchSettings,
    draft: BudgetPlan,
    module: ModuleType,
    family: str,
    width: int,
    batch_size: int,
) -> TrialConfig:
    """Return the config of a family's first point at a width and batch size."""
    narrow = replace(draft, architectures=(family,), widths={family: (width,)}, batch_sizes={family: batch_size})
    context = make_context(prepared, narrow)
    point = next(iter(points(module, context)), {})
    suggestion = suggest_point(module, context, point, settings.seed)
    return make_config(suggestion, prepared, context, steps=1, fold=settings.fold, seed=settings.seed)


def suggest_point(module: ModuleType, context: SpaceContext, point: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the space's suggestion for a point; what the point leaves out is sampled with the seed.

    A point with a value that the space does not have raises `UserError`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.enqueue_trial(dict(point))
    trial = study.ask()
    try:
        suggestion: dict[str, Any] = module.suggest(trial, context)
    except ValueError as error:
        raise UserError(f"points of a space must lie in it, but {dict(point)} does not ({error})") from error
    return suggestion


def published_width(family: str) -> int | None:
    """Return the width of a family's papers; an unknown family raises `UserError`."""
    from overread.architectures import ARCHITECTURES

    width = ARCHITECTURES[family].options().to_json().get("width")
    return width if isinstance(width, int) else None


def _timer(prepared: Prepared, settings: SearchSettings, threads: int) -> Timer:
    """Return a timer with the threads of one trial; with GPUs it runs as a Ray task on one of them."""

    def time_here(config: TrialConfig) -> float:
        import torch

        from overread.training.timing import time_step

        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return time_step(config, prepared, "cuda" if settings.gpus_per_worker else "cpu")
        finally:
            torch.set_num_threads(before)

    if not settings.gpus_per_worker:
        return time_here

    def time_on_gpu(config: TrialConfig) -> float:
        import ray

        task = ray.remote(num_cpus=threads, num_gpus=settings.gpus_per_worker)(time_here)
        return float(ray.get(task.remote(config)))

    return time_on_gpu
