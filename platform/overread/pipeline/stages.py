"""The stages of a run. Each takes the records of the stage before and leaves its own in the run folder."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.confidence.conformal import Shift
from overread.confidence.failure_detection import FAILURE_DICE
from overread.confidence.judgement import Judgement, shift_warning
from overread.data.layouts import read_dataset
from overread.data.locked_uses import earlier_uses, locked_uses, record_locked_use
from overread.data.phantom import read_difficulty
from overread.data.prepare import MapCases, prepare_dataset
from overread.data.store import default_cache, open_case
from overread.ensemble.evaluate import Measures
from overread.errors import UserError
from overread.jsonio import read_json, write_bytes, write_json
from overread.metrics.surface import common_unit
from overread.pipeline.choosing import open_tracker
from overread.pipeline.folders import RunFolder, RunRecord, claim, replace_folder, restore_folder
from overread.pipeline.importing import check_frozen, check_names, import_members, readings_of
from overread.pipeline.reading import CaseResult, ReadItem, read_item
from overread.pipeline.selection_report import brought
from overread.pipeline.summary import RunSummary, summarise_run, versions
from overread.pipeline.winners import Outcomes, freeze_winners
from overread.records import Dataset, FusionName, ImportedMember, Manifest, Prepared, PrepareSettings, Vote, Winners

if TYPE_CHECKING:
    from overread.search.budget import BudgetPlan, PlannedFamily
    from overread.search.settings import SearchSettings
    from overread.tracking.runs import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder with what every stage needs of it."""

    folder: RunFolder
    record: RunRecord
    prepared: Prepared
    tracker: Tracker


def prepare(data: Path, settings: PrepareSettings, cache: Path | None, map_cases: MapCases) -> Prepared:
    """Check and prepare a data set, or find it prepared."""
    return prepare_dataset(data, settings, (cache or default_cache()), map_cases)


def begin(
    out: Path,
    data: Path,
    settings: PrepareSettings,
    cache: Path | None,
    experiment: str,
    *,
    tracking_uri: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> RunFolder:
    """Claim a run folder and write what the run is about."""
    root = out.resolve()
    record = RunRecord(
        data=str(data.resolve()),
        cache=str((cache or default_cache()).resolve()),
        prepare=settings,
        tracking_uri=tracking_uri,
        experiment=experiment,
        search_id=f"{root.name}-{time.strftime('%Y%m%d-%H%M%S')}",
        seed=settings.seed,
    )
    return claim(out, record, resume=resume, overwrite=overwrite)


def open_run(folder: RunFolder, map_cases: MapCases, *, prepared: Prepared | None = None) -> Run:
    """Open a run folder for any stage; the prepared arrays are made again if the cache has lost them.

    A package that a killed packaging moved aside comes back.
    """
    record = folder.load()
    restore_folder(folder.ensemble)
    prepared = prepared or prepare(Path(record.data), record.prepare, Path(record.cache), map_cases)
    return Run(folder=folder, record=record, prepared=prepared, tracker=open_tracker(folder))


def search(run: Run, settings: SearchSettings) -> Outcomes:
    """Search networks and configurations; outcomes stand in `search/` and in MLflow."""
    from overread.search.leaderboard import read_outcomes
    from overread.search.study import run_search

    run_search(run.prepared, run.folder.search, settings, run.tracker)
    return read_outcomes(run.folder.search)


def assemble(
    run: Run,
    *,
    top: int,
    chosen: tuple[tuple[str, str], ...] | None = None,
    votes: Mapping[tuple[str, str], Vote] | None = None,
    fusion: FusionName = "soft",
    imported: tuple[ImportedMember, ...] = (),
    folds: int = 1,
) -> tuple[Winners, Manifest]:
    """Freeze the winners and write the ensemble package. Reads validation figures only.

    Members are taken by the rule, or as people name them (`chosen`), or as a greedy selection voted (`votes`, on the
    cases of so many `folds`); `imported` ones join them.
    People's `winner` tags in MLflow change only where people name the members: the rule leaves them alone.
    """
    from overread.search.leaderboard import read_outcomes
    from overread.tracking.winners import tag_members, tag_winners

    check_searched(run)
    outcomes = read_outcomes(run.folder.search)
    winners = freeze_winners(
        run.folder,
        run.prepared,
        outcomes,
        top=top,
        chosen=chosen,
        votes=votes,
        fusion=fusion,
        imported=imported,
        folds=folds,
    )
    named = [(member.trial_id, member.variant) for member in winners.members]
    with optional("tagging the members"):
        tag_members(run.tracker, named)
        if chosen:
            tag_winners(run.tracker, named)
    return winners, package(run, winners)


def check_searched(run: Run) -> None:
    """Raise `UserError` for a run of retrained winners: members are chosen where their search is."""
    if run.record.retrained_from is not None:
        raise UserError(
            f"an ensemble must be chosen in a run with a search, but {run.folder.root} retrains winners and has its "
            f"package already: choose in {run.record.retrained_from}, and retrain again"
        )


def package(run: Run, winners: Winners) -> Manifest:
    """Write the ensemble package of frozen winners, in place of an earlier one.

    That of winners that read of the locked split keeps the calibration it read it with, which is in the new folder
    before that takes the place of the old one: there is no moment without it.
    """
    from overread.ensemble.package import CONFIDENCE, write_package

    members = [*winners.members, *([winners.baseline] if winners.baseline else [])]
    restore_folder(run.folder.ensemble)
    earlier = run.folder.ensemble / CONFIDENCE
    kept = earlier.read_bytes() if run.folder.was_looked_at and earlier.is_file() else None
    with tempfile.TemporaryDirectory(dir=run.folder.root, prefix=".partial-") as temporary:
        new = Path(temporary) / run.folder.ensemble.name
        manifest = write_package(
            new,
            winners,
            {member.name: run.folder.root / member.weights for member in members},
            run.prepared,
            name=run.prepared.dataset,
            earlier_packages=earlier_uses(Path(run.record.cache), run.prepared, winners.fingerprint()),
            versions=versions(),
            seed=run.record.seed,
        )
        if kept is not None:
            write_bytes(new / CONFIDENCE, kept)
        replace_folder(run.folder.ensemble, new)
    return manifest


def import_folders(run: Run, folders: Mapping[str, Path], map_cases: MapCases) -> tuple[ImportedMember, ...]:
    """Check the readings of other tools and measure them on the validation cases of the run's best trial.

    Without a search these are the cases of the first fold. A name of any network of the search is refused: which of
    them become members is known only after hours of reading.
    """
    from overread.ensemble.selection import all_candidates, shortlist
    from overread.search.leaderboard import read_outcomes

    outcomes = read_outcomes(run.folder.search)
    check_names(folders, (candidate.name for candidate in all_candidates(outcomes)), "run")
    fold = shortlist(outcomes, 1)[0].outcome.config.fold if outcomes else 0
    files = image_files(read_dataset(Path(run.record.data)))
    return import_members(run.prepared, files, folders, map_cases, fold=fold)


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Say that MLflow failed and go on: everything it is told also stands in the run folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a server, a database or a full disk may raise
        log.warning("%s in MLflow failed, the run goes on: %s: %s", what, type(error).__name__, error)


def read_locked(
    run: Run, map_cases: MapCases, *, gpus: float = 0.0, measures: Measures | None = None
) -> list[CaseResult]:
    """Read the locked split with the frozen package, once; results stand in `predictions/results.json`.

    The use is recorded before the first case is read: an interrupted reading has looked, too. What the masks are
    measured by: `measures`, the usual overlap metrics by default.
    """
    winners = Manifest.load(run.folder.ensemble / "manifest.json").winners
    record_locked_use(Path(run.record.cache), run.prepared, winners, run.folder.root)
    locked = run.prepared.splits.locked
    out = run.folder.predictions
    return read_labelled(run, locked, out, map_cases, gpus=gpus, measures=measures or Measures())


def read_labelled(
    run: Run,
    case_ids: Sequence[str],
    out: Path,
    map_cases: MapCases,
    *,
    gpus: float = 0.0,
    masks: bool = True,
    measures: Measures | None = None,
) -> list[CaseResult]:
    """Read prepared cases with the run's package and measure them against their truth; `masks` writes these too.

    With `measures` also by these, and where several annotated a case against each of them.
    """
    from overread.ensemble.package import load_judgement

    package, prepared = run.folder.ensemble, run.prepared
    files = image_files(read_dataset(Path(run.record.data)))
    manifest = Manifest.load(package / "manifest.json")
    check_frozen(manifest.imported, prepared)
    readings = readings_of(manifest.imported, prepared)
    items = [
        ReadItem(
            case=case_id,
            files=files[case_id],
            group=prepared.case(case_id).group,
            package=str(package.resolve()),
            out=str(out.resolve()) if masks else "",
            truth=str((prepared.folder(prepared.case(case_id)) / "truth.npy").resolve()),
            gpus=gpus,
            imported=readings.get(case_id, {}),
            measures=measures,
            **(_truths(prepared, case_id) if measures is not None else {}),
        )
        for case_id in case_ids
    ]
    return read_items(items, manifest, out, map_cases, load_judgement(package, manifest))


def _truths(prepared: Prepared, case_id: str) -> dict[str, Any]:
    """Return what a `ReadItem` needs for distances, and the annotations of a case that several annotated."""
    case = prepared.case(case_id)
    unit = common_unit((known.spacing for known in prepared.cases), len(case.native_shape))
    spacing = case.spacing if unit == "mm" else None
    if len(case.annotators) < 2:
        return {"spacing": spacing}
    path = open_case(prepared, case).annotations_path
    return {"spacing": spacing, "annotations": str(path.resolve()), "annotators": case.annotators}


def read_items(
    items: Sequence[ReadItem], manifest: Manifest, out: Path, map_cases: MapCases, judgement: Judgement | None = None
) -> list[CaseResult]:
    """Read cases in parallel; write `confidence.csv` and `results.json` when all are read.

    With a judgement the rows have predicted Dice and bounds, and a shift of their scores is told once and written to
    `shift.json`.
    """
    from overread.cluster.tasks import on_gpus
    from overread.ensemble.predict import write_confidence_csv

    read_cases = on_gpus(map_cases, max((item.gpus for item in items), default=0.0))
    results: list[CaseResult] = read_cases(read_item, items, "Reading cases")
    (out / "shift.json").unlink(missing_ok=True)  # of an earlier reading
    if judgement is not None:
        shift = shift_of(results, judgement)
        warning = shift_warning(shift)
        if warning:
            log.warning(warning)
        write_json(out / "shift.json", {"warning": warning, "shift": shift.to_json() if shift else None})
        results = [replace(result, confidence=judgement.judge(result.confidence)) for result in results]
    write_confidence_csv(out / "confidence.csv", [r.confidence for r in results], manifest.label_names)
    write_json(out / "results.json", [result.to_json() for result in results])
    return results


def shift_of(results: Sequence[CaseResult], judgement: Judgement | None) -> Shift | None:
    """Return how far the predicted Dice of the cases is from that of the calibration, one case of each group."""
    if judgement is None:
        return None
    return judgement.shift([result.confidence for result in results], [result.group for result in results])


def image_files(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the absolute image files of every case, labelled or not."""
    root = Path(dataset.root)
    cases = (*dataset.cases, *dataset.unlabelled)
    return {case.id: tuple(str(root / name) for name in case.channels) for case in cases}


def load_results(folder: Path) -> list[CaseResult]:
    """Read `results.json` of a prediction folder."""
    return [CaseResult.from_json(item) for item in read_json(folder / "results.json")]


def conclude(
    run: Run, results: Sequence[CaseResult], seconds: Mapping[str, float], *, failure_dice: float = FAILURE_DICE
) -> RunSummary:
    """Write `summary.json` and `report.html`, and the figures into MLflow; seconds of earlier stages are kept."""
    from overread.ensemble.package import load_judgement
    from overread.pipeline.page import write_page
    from overread.review.tables import annotator_grid
    from overread.search.leaderboard import read_outcomes

    manifest = Manifest.load(run.folder.ensemble / "manifest.json")
    judgement = load_judgement(run.folder.ensemble, manifest)
    shift = shift_of(results, judgement)
    warning = shift_warning(shift)
    summary = summarise_run(
        run.prepared.dataset,
        manifest,
        results,
        seconds=_earlier_seconds(run) | dict(seconds),
        trials=count_trials(read_outcomes(run.folder.search)),
        difficulty=known_difficulty(Path(run.record.data)),
        judgement=judgement,
        calibration=_read_earlier(run.folder, "calibration"),
        validation=_read_earlier(run.folder, "validation"),
        locked_uses=len(locked_uses(Path(run.record.cache), run.prepared)),
        brought=brought(run.folder, Winners.load(run.folder.winners)),
        failure_dice=failure_dice,
    )
    summary = replace(summary, shift=shift, warnings=(warning,) if warning else ())
    summary.save(run.folder.summary)
    if summary.annotators:
        write_bytes(run.folder.predictions / "annotators.csv", annotator_grid(summary.annotators).csv().encode())
    write_page(run.folder.report, manifest, results, run.folder.predictions, summary, judgement=judgement)
    figures = {"locked_dice": summary.ensemble.locked_dice} | summary.ensemble.locked_dice_per_class
    measured = {f"locked/{name}": value for name, value in figures.items() if value is not None}
    with optional("writing the ensemble"):
        run.tracker.ensemble_run(manifest, measured, run.folder.ensemble)
    return summary


def _read_earlier(folder: RunFolder, split: str) -> list[CaseResult]:
    """Return what the package read when it was calibrated."""
    readings = folder.calibration / split
    return load_results(readings) if (readings / "results.json").is_file() else []


def _earlier_seconds(run: Run) -> dict[str, float]:
    return dict(RunSummary.load(run.folder.summary).seconds) if run.folder.summary.is_file() else {}


def known_difficulty(data: Path) -> dict[str, float]:
    """Return the difficulty of every case where the data set tells it (the phantom does); else nothing."""
    return read_difficulty(data) if (data / "difficulty.csv").is_file() else {}


def retime(run: Run, seconds: Mapping[str, float]) -> RunSummary:
    """Write the seconds of all stages, the report's own included, into `summary.json`."""
    told = _earlier_seconds(run) | {stage: round(value, 2) for stage, value in seconds.items()}
    summary = replace(RunSummary.load(run.folder.summary), seconds=told)
    summary.save(run.folder.summary)
    return summary


def plan(prepared: Prepared, settings: SearchSettings) -> tuple[PlannedFamily, ...]:
    """Return what a search would do, without doing it. Must run inside a Ray session."""
    from overread.search import budget

    return budget.dry_run(make_plan(prepared, settings))


def make_plan(prepared: Prepared, settings: SearchSettings) -> BudgetPlan:
    """Time the networks and return the plan of a search. Must run inside a Ray session."""
    from overread.cluster.session import available
    from overread.search import budget

    here = available().limited(settings.cpus)
    return budget.plan(prepared, settings, cpus=here.cpus, gpus=here.gpus, cpus_per_node=here.cpus_per_node)


def search_gpus(folder: RunFolder) -> float:
    """Return the GPUs of each worker of the run's search; its readings get as many."""
    from overread.search.settings import SearchSettings
    from overread.search.study import SETTINGS

    path = folder.search / SETTINGS
    return SearchSettings.load(path).gpus_per_worker if path.is_file() else 0.0


def count_trials(outcomes: Outcomes) -> dict[str, int]:
    """Count trials by architecture and by state."""
    counts: dict[str, int] = {}
    for outcome, _ in outcomes.values():
        for key in (outcome.config.architecture, outcome.state):
            counts[key] = counts.get(key, 0) + 1
    return counts
