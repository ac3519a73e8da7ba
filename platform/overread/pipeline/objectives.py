"""The benchmark of search objectives: a trial's own Dice against what it adds to the ensemble, at equal budget.

One search for each objective, in a run folder of its own, with the same seed, space, sizes of networks and number of
trials (or seconds). All begin with one point of each family, which is what a search by gain does: with more of them a
small search by Dice would hardly choose anything. So searches differ in nothing but the value of a trial. Each ends in
the same greedy selection, whose candidates are the best by Dice after those that the search itself made members of its
ensemble: a search by Dice has none, so what gain is worth includes its own shortlist. All winners are frozen before any
of them reads the locked split, once, for the figures.

What is finished is kept: the same call again goes on where the last one ended. An objective may be added until the
locked split was read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from overread.confidence.failure_detection import Estimate, PairedDifference, aurc_difference, failure_detection
from overread.confidence.ranking import ranking_score
from overread.data.prepare import MapCases
from overread.ensemble.contribution import ErrorCorrelation
from overread.ensemble.gain import Objective
from overread.errors import UserError
from overread.jsonio import JsonRecord, read_json, write_bytes, write_json
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.pipeline import stages
from overread.pipeline.folders import RunFolder
from overread.pipeline.reading import CaseResult
from overread.pipeline.run import check_search_settings
from overread.pipeline.selecting import assemble_greedily
from overread.pipeline.selection_report import SelectionReport
from overread.pipeline.summary import foregrounds, groups
from overread.records import Prepared, PrepareSettings, Winners
from overread.review.tables import Grid, write_tables
from overread.review.words import SIGNED, number, with_interval
from overread.search.leaderboard import read_outcomes
from overread.search.opening import CLOCK, PLAN, SETTINGS
from overread.search.settings import SearchSettings

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
"""The first is what the others are compared with."""
TOLD, RESULTS, REPORT = "bench.json", "objectives.json", "report.md"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BenchSettings(JsonRecord):
    """What the searches have in common; kept as `bench.json`, so that a later call cannot change it."""

    data: str
    cache: str
    prepare: PrepareSettings
    search: SearchSettings
    top: int = 5
    """Members at the most."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult(JsonRecord):
    """One row of the benchmark."""

    objective: Objective
    trials: dict[str, int]
    """Number by architecture and by state."""
    seconds: float
    """Of the search; measuring gains is part of it."""
    members: tuple[str, ...]
    families: tuple[str, ...]
    """Different architectures among the members."""
    error_correlation: float | None
    """Mean correlation (phi) of being wrong at a voxel over the pairs of members, on the validation cases."""
    validation: Summary
    """Dice of the ensemble on the cases that trials and members were chosen by: flattering."""
    locked: Summary
    validation_aurc: Estimate
    locked_aurc: Estimate
    """Of pairwise Dice."""
    difference: Summary
    """Locked Dice minus that of the first objective, paired, intervals by group."""
    aurc_difference: PairedDifference
    """The same of locked AURC; below 0 it is better than the first."""


def compare_objectives(
    out: Path,
    settings: BenchSettings,
    map_cases: MapCases,
    *,
    objectives: Sequence[Objective] = OBJECTIVES,
    tracking_uri: str | None = None,
) -> tuple[ObjectiveResult, ...]:
    """Search, select and judge for each objective, the first of all always; write tables. Needs a Ray session.

    Raises `UserError` for other settings than those of an earlier call, or a new objective after the locked split was
    read: that search would come after the figures it is compared by.
    """
    from overread.tracking.store import resolve_uri

    out = out.resolve()
    settings = replace(settings, search=replace(settings.search, points_per_family=1, resume=False, objective="dice"))
    _check_same(out, settings)
    chosen = _chosen(out, objectives)
    check_search_settings(settings.search)
    prepared = stages.prepare(Path(settings.data), settings.prepare, Path(settings.cache), map_cases)
    check_search_settings(settings.search, prepared)
    settings.save(out / TOLD)
    uri = resolve_uri(tracking_uri, out)
    _plan(out, settings, prepared)
    runs = {objective: _choose(out, settings, objective, prepared, uri, map_cases) for objective in chosen}
    read = {objective: _judge(run, settings, map_cases) for objective, run in runs.items()}
    first = read[OBJECTIVES[0]][1]
    results = tuple(_result(objective, runs[objective], *own, first) for objective, own in read.items())
    write_json(out / RESULTS, [result.to_json() for result in results])
    parts = [f"# Objectives of a search: {prepared.dataset}", about(settings, prepared)]
    parts += write_tables(objective_grids(results), out / "tables")
    write_bytes(out / REPORT, "\n\n".join(parts).encode() + b"\n")
    return results


def _check_same(out: Path, settings: BenchSettings) -> None:
    if not (out / TOLD).is_file():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} must be new or an earlier benchmark of objectives, but holds something else")
        return
    before, now = BenchSettings.load(out / TOLD), settings
    changed = [name for name in ("data", "prepare", "top") if getattr(before, name) != getattr(now, name)]
    old, new = before.search.to_json(), now.search.to_json()
    changed += [name for name in new if old[name] != new[name] and name not in ("cpus", "max_concurrent")]
    if changed:
        raise UserError(
            f"a benchmark must keep its settings, but {', '.join(changed)} changed: give the earlier ones or choose "
            "another --out"
        )


def _chosen(out: Path, objectives: Sequence[Objective]) -> list[Objective]:
    """Return the objectives of this call and of earlier ones, the first of all always."""
    begun = [objective for objective in OBJECTIVES if (out / objective / "run.json").is_file()]
    chosen = [objective for objective in OBJECTIVES if objective in (OBJECTIVES[0], *objectives, *begun)]
    unfrozen = [objective for objective in chosen if not RunFolder(out / objective).selection.is_file()]
    if unfrozen and any(RunFolder(out / objective).was_looked_at for objective in begun):
        raise UserError(
            f"all objectives must be searched before the locked split is read, but {out} has its figures and no search "
            f"by {' or '.join(unfrozen)}: name all objectives in one call with another --out"
        )
    return chosen


def _plan(out: Path, settings: BenchSettings, prepared: Prepared) -> None:
    """Time the networks once for all searches: timed apart, they would differ in sizes and in the time that is left."""
    path = out / PLAN
    if not path.is_file():
        stages.make_plan(prepared, settings.search).save(path)
    elif read_json(path)["prepared"] != prepared.content:
        raise UserError(f"a benchmark must keep its data, but {out} was made from other data: choose another --out")


def _choose(
    out: Path, settings: BenchSettings, objective: Objective, prepared: Prepared, uri: str, map_cases: MapCases
) -> stages.Run:
    """Search by an objective and freeze what greedy selection takes, unless that is done."""
    root = out / objective
    begun = (root / "run.json").is_file()
    folder = stages.begin(
        root,
        Path(settings.data),
        settings.prepare,
        Path(settings.cache),
        prepared.dataset,
        tracking_uri=uri,
        resume=begun,
    )
    run = stages.open_run(folder, map_cases, prepared=prepared)
    if folder.selection.is_file():  # written after winners and package
        return run
    log.info("searching by %s ...", objective)
    if not (folder.search / PLAN).is_file():
        write_json(folder.search / PLAN, read_json(out / PLAN))
    resume = (folder.search / SETTINGS).is_file()
    stages.search(run, replace(settings.search, objective=objective, resume=resume))
    assemble_greedily(run, map_cases, most=settings.top, gpus=settings.search.gpus_per_worker)
    return run


def _judge(run: stages.Run, settings: BenchSettings, map_cases: MapCases) -> tuple[list[CaseResult], list[CaseResult]]:
    """Return what the package reads of the validation fold and of the locked split, each read once."""
    gpus, folder = settings.search.gpus_per_worker, run.folder
    place = folder.calibration / "validation"
    if (place / "results.json").is_file():
        validation = stages.load_results(place)
    else:
        cases = run.prepared.splits.fold(settings.search.fold).validation
        validation = stages.read_labelled(run, cases, place, map_cases, gpus=gpus, masks=False)
    if folder.was_read:
        return validation, stages.load_results(folder.predictions)
    return validation, stages.read_locked(run, map_cases, gpus=gpus)


def _result(
    objective: Objective,
    run: stages.Run,
    validation: Sequence[CaseResult],
    locked: Sequence[CaseResult],
    first: Sequence[CaseResult],
) -> ObjectiveResult:
    members = Winners.load(run.folder.winners).members
    chosen = SelectionReport.load(run.folder.selection)
    return ObjectiveResult(
        objective=objective,
        trials=stages.count_trials(read_outcomes(run.folder.search)),
        seconds=float(read_json(run.folder.search / CLOCK)["seconds"]),
        members=tuple(member.name for member in members),
        families=tuple(dict.fromkeys(member.architecture for member in members)),
        error_correlation=mean_correlation(chosen.errors.among(list(chosen.votes))),
        validation=summarise(_dice(validation), groups=groups(validation)),
        locked=summarise(_dice(locked), groups=groups(locked)),
        validation_aurc=_aurc(validation),
        locked_aurc=_aurc(locked),
        difference=paired_bootstrap(_dice(locked), _dice(first), groups=groups(locked)),
        aurc_difference=aurc_difference(
            _confidence(locked),
            _confidence(first),
            _dice(locked),
            second_dice=_dice(first),
            foreground=foregrounds(locked),
            second_foreground=foregrounds(first),
            groups=groups(locked),
        ),
    )


def mean_correlation(errors: ErrorCorrelation) -> float | None:
    """Return the mean of the defined correlations by voxel over the pairs of members; None without one."""
    n = len(errors.members)
    pairs = [errors.by_voxel[i][j] for i in range(n) for j in range(i)]
    defined = [value for value in pairs if value is not None]
    return float(np.mean(defined)) if defined else None


def _dice(results: Sequence[CaseResult]) -> list[float]:
    return [float(result.dice or 0.0) for result in results]


def _confidence(results: Sequence[CaseResult]) -> list[float | None]:
    return [ranking_score(result.confidence, "pairwise_dice") for result in results]


def _aurc(results: Sequence[CaseResult]) -> Estimate:
    return failure_detection(
        _confidence(results), _dice(results), groups=groups(results), foreground=foregrounds(results)
    ).aurc


# ---------------------------------------------------------------- tables


def about(settings: BenchSettings, prepared: Prepared) -> str:
    """Say what the searches had in common, and what the intervals leave out."""
    search, splits = settings.search, prepared.splits
    ends = [f"{search.trials} trials"] if search.trials is not None else []
    ends += [f"{search.time_budget_s:.0f} s"] if search.time_budget_s is not None else []
    length = f"{search.steps} steps" if search.steps else f"{search.seconds_per_trial or 0:.0f} s"
    return (
        f"Each search: {' or '.join(ends)}, {length} a trial, seed {search.seed}, one point of each family first, "
        "networks of one plan; trials that lag behind in Dice are stopped early under every objective. Greedy "
        "selection of at most "
        f"{settings.top} members on the {len(splits.fold(search.fold).validation)} validation cases, of the candidates "
        "best in Dice and, first, of the ensemble that a search by gain built; all winners "
        f"frozen before the {len(splits.locked)} locked cases were read, once for each. Intervals resample patients; "
        "that another seed gives other searches is not in them: repeat with other seeds before you trust a difference."
    )


def objective_grids(results: Sequence[ObjectiveResult]) -> tuple[Grid, ...]:
    """Return the ensembles, their differences to the first, and what the searches took."""
    ensembles = tuple(
        (r.objective, _summary(r.validation), _summary(r.locked), _estimate(r.validation_aurc),
         _estimate(r.locked_aurc), str(len(r.members)), ", ".join(r.families), number(r.error_correlation))
        for r in results
    )  # fmt: skip
    differences = tuple(
        (r.objective, _summary(r.difference, SIGNED), _estimate(r.aurc_difference.difference, SIGNED))
        for r in results[1:]
    )
    searches = tuple(
        (r.objective, *(str(r.trials.get(state, 0)) for state in ("finished", "stopped", "failed")),
         f"{r.seconds:.0f}", ", ".join(r.members))
        for r in results
    )  # fmt: skip
    columns = ("objective", "validation Dice", "locked Dice", "validation AURC", "locked AURC", "members", "families",
               "error correlation")  # fmt: skip
    base = results[0].objective
    return (
        Grid("Ensembles (95 % intervals by group, AURC of pairwise Dice)", columns, ensembles),
        Grid(f"Locked split, paired differences to {base} (95 % intervals by group)",
             ("objective", "Dice", "AURC"), differences),
        Grid("Searches", ("objective", "finished", "stopped", "failed", "seconds", "names of the members"), searches),
    )  # fmt: skip


def _summary(found: Summary, form: str = ".4f") -> str:
    return with_interval(found.mean, found.low, found.high, form)


def _estimate(found: Estimate, form: str = ".4f") -> str:
    return with_interval(found.value, found.low, found.high, form)
