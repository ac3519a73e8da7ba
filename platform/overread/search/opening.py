"""Opening a search: its folder, plan and study, what earlier sessions left, and the jobs of its trials."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from overread.cluster.job import JOB, TrialJob
from overread.cluster.session import Resources
from overread.errors import UserError
from overread.jsonio import fingerprint
from overread.records import Prepared, TrialConfig
from overread.search import budget
from overread.search.checks import check_points
from overread.search.clock import SearchClock
from overread.search.leaderboard import TRIALS
from overread.search.settings import SearchSettings
from overread.search.space import SpaceContext, family_of, load_space, make_config, points
from overread.search.stopping import FairStopping
from overread.search.teachers import OPTION
from overread.training.extras import lacking_extras

if TYPE_CHECKING:
    import optuna

    from overread.search.searcher import JobSearch

log = logging.getLogger(__name__)
SETTINGS, PLAN, CLOCK, JOURNAL = "settings.json", "plan.json", "clock.json", "study.journal"
BASELINE_FAMILY = "unet"
"""The ensemble is compared with the first point of this family."""
SHORTEST_SHARE = 0.6
"""A last trial starts only if this share of a trial's seconds is left; it then gets what is left."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The fixed parts of a running search."""

    prepared: Prepared
    out: Path
    settings: SearchSettings
    plan: budget.BudgetPlan
    module: ModuleType
    context: SpaceContext
    clock: SearchClock
    policy: FairStopping
    computed: set[str] = field(default_factory=set)
    """Sources of extras of which it was said that they are computed."""


def open_search(
    prepared: Prepared, out: Path, settings: SearchSettings, here: Resources, timer: budget.Timer | None = None
) -> Search:
    """Start a search in its folder, or reopen the one that is there. Nothing is written before all is checked."""
    _check_folder(out, settings, prepared)
    least = settings.seconds_per_trial or budget.SHORTEST
    clock = SearchClock(path=out / CLOCK, budget=settings.time_budget_s, least=least)
    module, usable = load_space(settings.space, settings.spaces_dir), here.limited(settings.cpus)
    if (out / PLAN).exists():
        plan = replace(budget.BudgetPlan.load(out / PLAN), trials=settings.trials, seconds=settings.time_budget_s)
        concurrency, slots, threads = budget.share_cpus(
            settings, usable.cpus, usable.gpus, plan.concurrency, usable.cpus_per_node
        )
        plan = replace(plan, concurrency=concurrency, slots=slots, threads=threads)
        clock.least = plan.seconds_per_trial
    else:
        plan = budget.plan(
            prepared,
            settings,
            cpus=usable.cpus,
            gpus=usable.gpus,
            cpus_per_node=usable.cpus_per_node,
            timer=timer,
        )
    context = budget.make_context(prepared, plan)
    check_points(module, context, settings, prepared)
    if not (out / PLAN).exists():
        plan.save(out / PLAN)
    settings.save(out / SETTINGS)
    return Search(
        prepared=prepared, out=out, settings=settings, plan=plan, module=module, context=context, clock=clock,
        policy=FairStopping(),
    )  # fmt: skip


def _check_folder(out: Path, settings: SearchSettings, prepared: Prepared) -> None:
    path = out / SETTINGS
    if not path.exists():
        return
    if not settings.resume:
        raise UserError(f"{out} must not hold a search, but it does: resume it (--resume) or choose another folder")
    before = SearchSettings.load(path)
    kept = (
        "space",
        "architectures",
        "points",
        "points_per_family",
        "fold",
        "seed",
        "steps",
        "epochs",
        "teachers",
        "objective",
    )
    changed = [name for name in kept if getattr(before, name) != getattr(settings, name)]
    if changed:
        raise UserError(
            f"a resumed search must keep its settings, but {', '.join(changed)} changed: "
            "give the earlier ones or choose another folder"
        )
    if (out / PLAN).exists() and budget.BudgetPlan.load(out / PLAN).prepared != prepared.content:
        raise UserError(
            f"a resumed search must keep its data, but {out} was made from other data: choose another folder"
        )


def make_searcher(search: Search) -> JobSearch:
    """Open the study, take up what earlier sessions left, and return the searcher."""
    import optuna

    from overread.search.objective import TrialValue
    from overread.search.sampler import make_sampler
    from overread.search.searcher import JobBook, JobSearch, Rules, lost_trials, tell

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    by_gain = search.settings.objective != "dice"
    value = TrialValue(search.out, search.settings.objective)
    jobs = [TrialJob.load(path) for path in sorted((search.out / TRIALS).glob(f"*/{JOB}"))]
    searcher = JobSearch(
        lambda trial, workers: make_job(search, trial, workers),
        sampler=make_sampler(search.settings.seed + len(jobs), value.renewed if by_gain else None),
        storage=_journal(search.out / JOURNAL),
        study_name="validation_dice_max",
        policy=search.policy,
        book=JobBook(given=len(jobs)),
        rules=Rules(
            slots=search.plan.slots,
            trials=search.plan.trials,
            workers=search.settings.workers,
            time_left=lambda given: time_left(search, given),
        ),
        value=value,
    )
    searcher.book.lost.extend(lost_trials(searcher.study, (job.number for job in jobs)))
    for point in first_points(search):
        searcher.study.enqueue_trial(point, skip_if_exists=True)
    for job in jobs:
        outcome = job.outcome()
        search.policy.start(job.trial_id, job.config.architecture)
        if outcome is None or value.waits(job, outcome):
            searcher.book.pending.append(_again(search, job))
            continue
        tell(searcher.study, job.number, outcome, value(job, outcome))
        search.policy.replay(job.trial_id, outcome.epochs)
        if outcome.state == "failed":
            search.policy.fail(job.trial_id)
    return searcher


def first_points(search: Search) -> tuple[dict[str, Any], ...]:
    """Return the points to try before the sampler chooses: as many of each family as the settings say."""
    counts: dict[str, int] = {}
    chosen = []
    for point in points(search.module, search.context):
        family = family_of(point, search.context)
        counts[family] = counts.get(family, 0) + 1
        if search.settings.opening is None or counts[family] <= search.settings.opening:
            chosen.append(point)
    return tuple(chosen)


def time_left(search: Search, given: int) -> bool:
    """Return whether another trial is worth starting; until each family has had one, a shorter one is."""
    share = SHORTEST_SHARE if given >= len(search.plan.architectures) else SHORTEST_SHARE / 3
    return search.clock.remaining >= share * search.plan.seconds_per_trial


def _again(search: Search, job: TrialJob) -> TrialJob:
    """Return the job of an unfinished trial for this session: new deadline and threads, same training."""
    (job.path / "stop.json").unlink(missing_ok=True)
    (job.path / "placement_group.json").unlink(missing_ok=True)  # of a cluster that is gone
    if job.protected:
        search.policy.protect(job.trial_id)
    job = replace(job, folder=str(search.out / TRIALS / job.trial_id), deadline=search.clock.last_step)
    return replace(job, threads=search.plan.threads, workers=min(job.workers, search.plan.slots))


def make_job(search: Search, trial: optuna.Trial, workers: int) -> TrialJob:
    """Turn a fresh Optuna trial into a job: suggestion, config, place."""
    from overread.training.seeds import derived_seed

    settings, plan, clock = search.settings, search.plan, search.clock
    suggestion = search.module.suggest(trial, search.context)
    family = family_of(suggestion, search.context)
    trial_id = f"{trial.number:04d}-{family}"
    baseline = family == BASELINE_FAMILY and is_baseline(search, trial.params)
    protected = search.policy.start(trial_id, family)
    if baseline and not protected:
        search.policy.protect(trial_id)
    config = make_config(
        suggestion,
        search.prepared,
        search.context,
        steps=settings.steps,
        train_seconds=min(plan.train_seconds, budget.TRAINING_SHARE * max(clock.remaining, 1.0)),
        epochs=plan.epochs,
        fold=settings.fold,
        seed=derived_seed(settings.seed, trial.number) >> 32,  # 31 bits: every library takes them
        baseline=baseline,
    )
    _tell_lacking(search, config)
    return TrialJob(
        trial_id=trial_id,
        number=trial.number,
        folder=str(search.out / TRIALS / trial_id),
        config=config,
        workers=workers,
        threads=plan.threads,
        gpus_per_worker=settings.gpus_per_worker,
        deadline=clock.last_fresh_step,
        protected=protected or baseline,
        trainer=settings.trainer,
        by_gain=settings.objective != "dice",
    )


def _tell_lacking(search: Search, config: TrialConfig) -> None:
    """Say once per source of extras (attention maps) that a trial will have to compute them."""
    source = fingerprint(config.options.get(OPTION))
    if source not in search.computed and (line := lacking_extras(config, search.prepared)):
        search.computed.add(source)
        log.info("%s", line)


def is_baseline(search: Search, values: Mapping[str, Any]) -> bool:
    """Return whether a trial has the values of the first point of the plain U-Net.

    Values that a space does not ask for (the dimensions of a network on images) do not count.
    """
    found = points(search.module, search.context)
    first = next((point for point in found if family_of(point, search.context) == BASELINE_FAMILY), None)
    return first is not None and all(values.get(name, value) == value for name, value in first.items())


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))
