"""One program for every paper: prepare, train the rows that fit the budget, test them, write tables and figures.

Where rows need something made before (`Paper.before`: a pretrained teacher), it is made first, within the same budget.
The output folder holds `before/`, `rows/<row>-<hash>/` (a training as any other, one per fold where folds are tested,
and `result.json` of its test, which is tested again where `Paper.measures` was raised), `combined/` where rows are read
together, `costs/`, `tables/` (CSV and Markdown), `figures/` and `report.md`. A row is found again by the hash of its
config and data: a second call trains what is missing, and a row that the budget cut short goes on from its last
checkpoint.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from overread.cluster.job import JOB, OUTCOME, TrialJob
from overread.cluster.session import Resources, available, require_gpus, threads_each
from overread.cluster.tasks import on_gpus
from overread.data.locked_uses import locked_uses, record_locked_use
from overread.data.prepare import MapCases, prepare_dataset
from overread.data.store import default_cache
from overread.errors import UserError
from overread.jsonio import fingerprint
from overread.records import Prepared, TrialConfig, TrialOutcome
from overread.reproduction.configs import architecture_of, measuring_key, prepare_settings, read_config, row_config
from overread.reproduction.cost import CostItem, measure_cost, published_parameters
from overread.reproduction.measuring import MeasureItem, measure_item, measure_mask
from overread.reproduction.paper import PAPERS, Made, Paper, Protocol, Row, Setting, Size
from overread.reproduction.results import Cost, Findings, RowResult
from overread.reproduction.writing import write_findings
from overread.search.single import train_all
from overread.training.worker import check_fits

if TYPE_CHECKING:
    from overread.tracking.runs import Tracker

RESULT = "result.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReproductionSettings:
    """What `overread reproduce` may be told."""

    paper: str
    data: Path
    out: Path
    size: Size = "small"
    rows: tuple[str, ...] = ("core",)
    """Names as printed; `core` and `all` stand for those rows, `none` trains nothing."""
    imported: Mapping[str, Path] = field(default_factory=dict)
    """Folders of masks, named as the cases, by row: another tool's readings of the same test cases."""
    budget_s: float | None = None
    """Wall time for training in this call; None: until all rows are trained."""
    cache: Path | None = None
    tracking_uri: str | None = None
    gpus_per_worker: float = 0.0
    seed: int = 0
    failure_dice: float | None = None
    """A case of lower Dice is a failure, where failures are counted; None: as the exhibits have it."""
    baseline: str | None = None
    """Row whose badly segmented cases a table is of, where the paper has one; None: as the exhibits have it."""


@dataclass(frozen=True)
class RowTraining:
    """A row to train with one fold held out, and where."""

    row: Row
    job: TrialJob
    measured: str = ""
    """`RowResult.measured` of a test that still holds."""

    @property
    def folder(self) -> Path:
        """`rows/<row>-<hash>/`, or `rows/<row>-fold-<n>-<hash>/` where folds are tested."""
        return self.job.path

    @property
    def outcome(self) -> TrialOutcome | None:
        """The outcome of a complete training; None: it has not ended, or not at its last step."""
        outcome = self.job.outcome()
        return outcome if outcome is not None and outcome.state == "finished" else None

    @property
    def result(self) -> RowResult | None:
        """The row's test, if it was done as it would be now."""
        path = self.folder / RESULT
        found = RowResult.load(path) if path.is_file() else None
        return found if found is not None and found.measured == self.measured else None


def reproduce(settings: ReproductionSettings, map_cases: MapCases) -> Findings:
    """Run what is missing and write all tables and figures anew. Must run inside a Ray session."""
    started = time.time()
    paper = PAPERS[settings.paper]
    protocol = paper.protocols[settings.size]
    deadline = None if settings.budget_s is None else started + settings.budget_s
    chosen = choose_rows(paper, settings.rows)
    for name in settings.imported:
        paper.row(name)
    check_baseline(paper, settings.baseline)
    here = available()
    require_gpus(settings.gpus_per_worker, here)
    cache = settings.cache or default_cache()
    prepared = prepare_dataset(settings.data, prepare_settings(protocol, settings.seed), cache, map_cases)
    rows = [row for row in paper.rows if row.architecture is not None]
    if rows:
        check_fits(row_config(rows[0], protocol, prepared, settings.seed), prepared)
    tracker = _tracker(settings, prepared)
    made = _made(settings, chosen, prepared, tracker, map_cases, deadline)
    by_row = {
        row.name: tuple(_training(settings, row, prepared, deadline, made, fold) for fold in protocol.trained_folds)
        for row in rows
        if made is not None or not _waits(paper, row)
    }
    trainings = tuple(chain(*by_row.values()))
    _train([t for t in trainings if t.row in chosen and t.result is None], prepared, settings.out, here)
    waiting = [t for t in trainings if t.outcome is not None and t.result is None]
    if waiting or settings.imported:
        _record_test(settings, trainings, prepared, cache)
    for training in waiting:
        _test(settings, training, prepared, map_cases)
        if training.outcome is not None:
            tracker.finish_trial(training.job.trial_id, training.outcome, training.folder)
    findings = Findings(
        paper=paper,
        size=settings.size,
        protocol=protocol,
        prepared=prepared,
        failure_dice=settings.failure_dice,
        baseline=settings.baseline,
        results={name: result for name, folds in by_row.items() if (result := _result(folds)) is not None}
        | {name: _imported(name, folder, prepared, protocol, paper) for name, folder in settings.imported.items()},
        networks={name: _networks(folds) for name, folds in by_row.items() if _result(folds) is not None},
        made=made,
        costs={name: _cost(settings, first, map_cases) for name, (first, *_) in by_row.items()},
    )
    if paper.combine is not None:
        findings = replace(findings, combined=settings.out.resolve() / "combined")
        findings.results.update(paper.combine(findings, map_cases))
    write_findings(findings, settings.out)
    tracker.end_search()
    tracker.add_files(settings.out, ("report.md", "tables", "figures"))
    return findings


def choose_rows(paper: Paper, names: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows that are asked for, in the paper's order; an unknown name raises `UserError`."""
    wanted = [name for name in names if name not in ("core", "all", "none")]
    named = {paper.row(name).name for name in wanted}
    for name in sorted(named):
        architecture_of(paper.row(name))
    trainable = (row for row in paper.rows if row.architecture is not None)
    return tuple(row for row in trainable if "all" in names or ("core" in names and row.core) or row.name in named)


def check_baseline(paper: Paper, name: str | None) -> None:
    """Raise `UserError` for a baseline that is no row, or of a paper whose tables need none."""
    if name is None:
        return
    if not paper.by_baseline:
        known = ", ".join(known for known in PAPERS if PAPERS[known].by_baseline)
        raise UserError(
            f"--baseline must be for a paper that compares on its bad cases ({known}), but got {paper.name}"
        )
    paper.row(name)


def slug(name: str) -> str:
    """Return a row's name as a file name: `U-Netmer <1|2>` becomes `u-netmer-1-2`, `UNet#` `unet-sharp`."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower().replace("#", "-sharp ")).strip("-")


def _waits(paper: Paper, row: Row) -> bool:
    """Return whether a row needs what is made before."""
    return paper.before is not None and row.architecture in paper.before.architectures


def _made(
    settings: ReproductionSettings,
    chosen: Sequence[Row],
    prepared: Prepared,
    tracker: Tracker,
    map_cases: MapCases,
    deadline: float | None,
) -> Made | None:
    """Return what was made before the rows; it is only looked for where no chosen row needs it."""
    paper = PAPERS[settings.paper]
    if paper.before is None:
        return None
    waiting = [row.name for row in chosen if _waits(paper, row)]
    setting = Setting(
        size=settings.size,
        prepared=prepared,
        folder=settings.out.resolve() / "before",
        deadline=deadline if waiting else 0.0,
        gpus=settings.gpus_per_worker,
        seed=settings.seed,
        tracker=tracker,
        map_cases=map_cases,
    )
    made = paper.before.make(setting)
    if made is None and waiting:
        log.info("rows wait for what is made before them, in the next call: %s", ", ".join(waiting))
    return made


def _training(
    settings: ReproductionSettings,
    row: Row,
    prepared: Prepared,
    deadline: float | None,
    made: Made | None,
    fold: int,
) -> RowTraining:
    paper = PAPERS[settings.paper]
    protocol = paper.protocols[settings.size]
    if made is not None and _waits(paper, row):
        protocol = replace(protocol, options=dict(protocol.options) | dict(made.options))
    config = row_config(row, protocol, prepared, settings.seed, fold)
    out = settings.out.resolve()
    key = row_key(config, prepared.content, out)
    name = f"{slug(row.name)}-fold-{fold + 1}" if protocol.cross_validated else slug(row.name)
    folder = out / "rows" / f"{name}-{key}"
    job = TrialJob(
        trial_id=folder.name,
        number=0,
        folder=str(folder),
        config=config,
        gpus_per_worker=settings.gpus_per_worker,
        deadline=deadline,
        protected=True,
    )
    return RowTraining(row, job, measuring_key(row, paper, protocol))


def row_key(config: TrialConfig, content: str, out: Path) -> str:
    """Return the hash by which a row is found again in an output folder, wherever this is moved to.

    Files that were made in it, such as a teacher, are named from there.
    """
    told = json.loads(json.dumps(config.told, ensure_ascii=False).replace(f'"{out}/', '"'))
    return fingerprint({"config": told, "data": content})[:12]


def _train(trainings: Sequence[RowTraining], prepared: Prepared, out: Path, here: Resources) -> None:
    """Train the rows that are not complete; those that the deadline stops go on in the next call.

    Rows that are fewer than the CPUs share them.
    """
    waiting = [training for training in trainings if training.outcome is None]
    threads = threads_each(max(1, len(waiting)), here.cpus, here.cpus_per_node)
    open_rows = [replace(training, job=replace(training.job, threads=threads)) for training in waiting]
    for training in open_rows:
        (training.folder / OUTCOME).unlink(missing_ok=True)  # of a row that was cut short or failed
        training.job.save(training.folder / JOB)
    if open_rows:
        names = dict.fromkeys(t.row.name for t in open_rows)
        log.info("%d trainings of %d rows: %s", len(open_rows), len(names), ", ".join(names))
        train_all([training.job for training in open_rows], prepared, scratch=out.resolve() / "tune")
    for training in open_rows:
        ended = training.job.outcome()
        state = "waits for the next call" if ended is None else f"{ended.state} {ended.reason}".strip()
        log.info("%s: %s", training.folder.name, state)


def _record_test(
    settings: ReproductionSettings, trainings: Sequence[RowTraining], prepared: Prepared, cache: Path
) -> None:
    """Add to the ledger of the locked split that these rows read it, once for a folder however often it is resumed.

    `overread run` on the same data has the same locked cases: what is learned here of networks on them is known there.
    A paper that tests folds reads every case of the data set, those that are locked elsewhere, too.
    """
    paper, out = PAPERS[settings.paper], settings.out.resolve()
    rows = {"rows": sorted(t.folder.name for t in trainings), "imported": sorted(settings.imported)}
    name = f"{paper.command} {paper.name} {settings.size} {fingerprint(rows)[:12]}"
    if not any((use["winners"], use.get("run")) == (name, str(out)) for use in locked_uses(cache, prepared)):
        record_locked_use(cache, prepared, name, out)


def _test(settings: ReproductionSettings, training: RowTraining, prepared: Prepared, map_cases: MapCases) -> None:
    """Read the cases held out with a trained row and write its result."""
    outcome = training.outcome
    assert outcome is not None and outcome.weights is not None  # noqa: S101  (a finished training has both)
    protocol = PAPERS[settings.paper].protocols[settings.size]
    items = [
        MeasureItem(
            paper=settings.paper,
            size=settings.size,
            row=training.row.name,
            case=case,
            config=read_config(training.row, outcome.config),
            weights=str(training.folder / outcome.weights),
            prepared=prepared.root,
            device="cuda" if settings.gpus_per_worker else "cpu",
        )
        for case in held_out(protocol, prepared, outcome.config.fold)
    ]
    read = on_gpus(map_cases, settings.gpus_per_worker)
    RowResult(
        row=training.row.name,
        parameters=outcome.parameters,
        steps=outcome.epochs[-1].step,
        seconds=outcome.seconds,
        threads=TrialJob.load(training.folder / JOB).threads,
        epochs=outcome.epochs,
        cases=tuple(read(measure_item, items, f"Testing {training.row.name}")),
        measured=training.measured,
    ).save(training.folder / RESULT)


def held_out(protocol: Protocol, prepared: Prepared, fold: int) -> tuple[str, ...]:
    """Return the cases that a row reads after its training with a fold held out: the test split, or what is tested."""
    splits = prepared.splits
    if protocol.cross_validated:
        return splits.folds[fold]
    return (*splits.locked, *splits.calibration, *splits.folds[fold]) if protocol.read_all else splits.locked


def _result(folds: Sequence[RowTraining]) -> RowResult | None:
    """Return the result of a row, of all its folds; None: some are not tested yet."""
    results = [result for training in folds if (result := training.result) is not None]
    return RowResult.of_folds(results) if len(results) == len(folds) else None


def _networks(folds: Sequence[RowTraining]) -> tuple[tuple[TrialConfig, Path], ...]:
    """Return config and weights of the trainings of a row."""
    return tuple(
        (read_config(training.row, outcome.config), training.folder / str(outcome.weights))
        for training in folds
        if (outcome := training.outcome) is not None
    )


def _imported(name: str, folder: Path, prepared: Prepared, protocol: Protocol, paper: Paper | None = None) -> RowResult:
    """Return the test of masks that another tool made, of every tested case."""
    splits = prepared.splits
    tested = splits.folds if protocol.cross_validated else (splits.locked,)
    cases = [measure_mask(folder, prepared, case, fold, paper) for fold, cases in enumerate(tested) for case in cases]
    return RowResult(row=name, parameters=0, steps=0, seconds=0.0, epochs=(), cases=tuple(cases))


def _cost(settings: ReproductionSettings, training: RowTraining, map_cases: MapCases) -> Cost:
    """Return what a model's steps take, measured once; where they fail, why, to be tried again in the next call."""
    path = settings.out / "costs" / f"{training.folder.name}.json"
    published = published_parameters(training.row, PAPERS[settings.paper].published_classes)
    if path.is_file():
        return replace(Cost.load(path), published=published)
    device = "cuda" if settings.gpus_per_worker else "cpu"
    item = CostItem(row=training.row.name, config=training.job.config, published=published, device=device)
    try:
        (cost,) = on_gpus(map_cases, settings.gpus_per_worker)(measure_cost, [item], "")
    except UserError:
        raise
    except Exception as error:  # a model that does not fit the machine must not take the tables of the others
        log.warning("cost of %s: %s: %s", training.row.name, type(error).__name__, error)
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Cost(
            row=training.row.name,
            parameters=0,
            published=published,
            seconds_per_step=0.0,
            peak_bytes=0,
            device=device,
            failure=reason,
        )
    cost.save(path)
    return cost


def _tracker(settings: ReproductionSettings, prepared: Prepared) -> Tracker:
    from overread.tracking.runs import Tracker
    from overread.tracking.store import resolve_uri

    settings.out.mkdir(parents=True, exist_ok=True)
    name = (
        f"reproduce {settings.paper} {prepared.dataset} {settings.size} {fingerprint(str(settings.out.resolve()))[:6]}"
    )
    tracker = Tracker(resolve_uri(settings.tracking_uri, settings.out), f"reproduce-{settings.paper}", name)
    tracker.search_run({"paper": settings.paper, "size": settings.size, "data": prepared.dataset})
    return tracker
