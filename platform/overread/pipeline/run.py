"""All stages on one data set, within one time budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overread.confidence.conformal import COVERAGE, check_coverage
from overread.confidence.failure_detection import FAILURE_DICE
from overread.data.prepare import MapCases
from overread.ensemble.evaluate import Measures
from overread.errors import UserError
from overread.pipeline import stages
from overread.pipeline.calibrating import calibrate_if_possible, check_unchanged
from overread.pipeline.folders import RunFolder, check_free
from overread.pipeline.summary import RunSummary
from overread.records import Prepared, PrepareSettings

if TYPE_CHECKING:
    from overread.search.settings import SearchSettings

log = logging.getLogger(__name__)

READING_SHARE = 0.1
"""Share of a budget kept for what follows the search: packaging, calibration, reading the locked split, the report."""
SELECTING_SHARE = 0.1
"""The same for a greedy selection, which reads the validation cases by a dozen candidates."""
READING_LEAST_S = 35.0
SEARCH_LEAST_S = 15.0
STAGES_TO_COME = 3
"""After the calibration: describing the members, reading the locked split, the report."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What `overread run` may be told."""

    data: Path
    out: Path
    prepare: PrepareSettings
    search: SearchSettings
    """Its time budget is that of the whole run; the search gets what the other stages leave."""
    cache: Path | None = None
    tracking_uri: str | None = None
    top: int = 5
    select: Literal["rule", "greedy"] | None = None
    """Members by the validation Dice of each alone, or by what they add; None: as the objective of the search says."""
    coverage: float = COVERAGE
    """Of the lower bounds of Dice."""
    resume: bool = False
    overwrite: bool = False

    @property
    def greedy(self) -> bool:
        """Whether members are selected greedily: after a search for what complements them the rule would drop it."""
        return self.select == "greedy" or (self.select is None and self.search.objective != "dice")


@dataclass
class Clock:
    """Seconds since the start, and of each stage."""

    started: float = field(default_factory=time.monotonic)
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and say that it begins."""
        log.info("%s ...", name)
        begin = time.monotonic()
        yield
        self.stages[name] = time.monotonic() - begin
        log.info("%s: %.1f s", name, self.stages[name])


def run_all(settings: RunSettings, map_cases: MapCases, clock: Clock | None = None) -> RunSummary:
    """Prepare, search, freeze the winners, assemble, read the locked split, report. Must run inside a Ray session."""
    clock = clock or Clock()
    check_coverage(settings.coverage)
    check_search_settings(settings.search)
    check_free(settings.out, resume=settings.resume, overwrite=settings.overwrite)
    with clock.stage("prepare"):
        prepared = stages.prepare(settings.data, settings.prepare, settings.cache, map_cases)
    earlier = RunFolder(settings.out.resolve())
    frozen = settings.resume and earlier.was_looked_at
    if frozen:
        check_unchanged(earlier, settings.coverage)
        if earlier.was_read:
            return _conclude_again(settings, prepared, map_cases, clock)
    else:
        check_search_settings(settings.search, prepared)
        _search_settings(settings, clock)  # a budget that cannot do is told before the folder is claimed
    run = stages.open_run(start(settings, prepared.dataset), map_cases, prepared=prepared)
    if not frozen:  # else an interrupted reading of the locked split is read anew, with the winners that began it
        _make_package(run, settings, map_cases, clock)
    with clock.stage("predict"):
        results = stages.read_locked(run, map_cases, gpus=settings.search.gpus_per_worker)
    with clock.stage("report"):
        stages.conclude(run, results, clock.stages)
    # Once more, so that the seconds of the report itself are told too.
    return stages.retime(run, clock.stages | {"total": clock.elapsed})


def _make_package(run: stages.Run, settings: RunSettings, map_cases: MapCases, clock: Clock) -> None:
    """Search, freeze the winners, assemble and calibrate."""
    from overread.pipeline import selecting

    gpus = settings.search.gpus_per_worker
    with clock.stage("search"):
        stages.search(run, _search_settings(settings, clock))
    with clock.stage("ensemble"):
        if settings.greedy:
            winners, _ = selecting.assemble_greedily(run, map_cases, most=settings.top, gpus=gpus)
        else:
            winners, _ = stages.assemble(run, top=settings.top)
    with clock.stage("calibrate"):
        judged = calibrate_if_possible(run, map_cases, coverage=settings.coverage, gpus=gpus)
    if not settings.greedy and judged is not None and _can_describe(settings, clock):  # greedy has described them
        with clock.stage("describe"):
            selecting.describe_if_possible(run, winners, map_cases, gpus=gpus)


def check_search_settings(search: SearchSettings, prepared: Prepared | None = None) -> None:
    """Raise `UserError` for a search that cannot run here; with `prepared` also one that does not suit the data.

    Must run inside a Ray session.
    """
    from overread.cluster.session import available
    from overread.search.study import check_search

    here = available()
    check_search(search, here.cpus, here.gpus, prepared)


def _conclude_again(settings: RunSettings, prepared: Prepared, map_cases: MapCases, clock: Clock) -> RunSummary:
    run = stages.open_run(start(settings, prepared.dataset), map_cases, prepared=prepared)
    with clock.stage("report"):
        stages.conclude(run, stages.load_results(run.folder.predictions), {})
    return stages.retime(run, {"report": clock.stages["report"]})


def start(settings: RunSettings, experiment: str) -> RunFolder:
    """Claim the run folder and write what the run is about."""
    from overread.tracking.store import resolve_uri

    out = settings.out.resolve()
    check_free(out, resume=settings.resume, overwrite=settings.overwrite)
    # A store that was asked for must be reachable before anything is touched; the default one lies in the folder.
    uri = resolve_uri(settings.tracking_uri, out) if settings.tracking_uri else None
    return stages.begin(
        out,
        settings.data,
        settings.prepare,
        settings.cache,
        experiment,
        tracking_uri=uri,
        resume=settings.resume,
        overwrite=settings.overwrite,
    )


def _search_settings(settings: RunSettings, clock: Clock) -> SearchSettings:
    """Give the search what is left of the budget after preparation and what later stages will need."""
    budget = settings.search.time_budget_s
    if budget is None:
        return settings.search
    selecting = SELECTING_SHARE * budget if settings.greedy else 0.0
    left = budget - clock.elapsed - max(READING_LEAST_S, READING_SHARE * budget) - selecting
    if left < SEARCH_LEAST_S:
        raise UserError(
            f"--time-budget must leave {SEARCH_LEAST_S:.0f} s for the search, but {budget:.0f} s leave {left:.0f} s: "
            "give more time"
        )
    return replace(settings.search, time_budget_s=left)


def _can_describe(settings: RunSettings, clock: Clock) -> bool:
    """Return whether the budget leaves time to measure what each member brings, before the locked split is read.

    That, the locked split and the report each take about as long as the calibration, whose cases and members they have.
    """
    budget = settings.search.time_budget_s
    if budget is None or budget - clock.elapsed >= STAGES_TO_COME * clock.stages["calibrate"]:
        return True
    log.warning(
        "what each member brings is not measured, since the time budget ends: `overread ensemble --out %s --top %d` "
        "does it afterwards",
        settings.out,
        settings.top,
    )
    return False


def evaluate_run(
    out: Path, map_cases: MapCases, *, failure_dice: float = FAILURE_DICE, measures: Measures | None = None
) -> RunSummary:
    """Read the locked split of a run with its frozen ensemble, and write summary and report."""
    folder = RunFolder(out.resolve())
    run = stages.open_run(folder, map_cases)
    if not (folder.ensemble / "manifest.json").is_file():
        raise UserError(f"{out} must hold an ensemble, but it has none: run `overread ensemble --out {out}` first")
    clock = Clock()
    with clock.stage("predict"):
        results = stages.read_locked(run, map_cases, gpus=stages.search_gpus(folder), measures=measures)
    return stages.conclude(run, results, clock.stages, failure_dice=failure_dice)
