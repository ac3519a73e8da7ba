"""Pruning a trained network to one of its levels: every level measured, the smallest good one kept as its own trial."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from overread.data.store import open_case
from overread.ensemble.export import check_export, export_onnx
from overread.ensemble.pruning import (
    LevelScore,
    check_tolerance,
    choose_level,
    find_level,
    level_cost,
    levels_of,
    stand_alone,
)
from overread.errors import UserError
from overread.jsonio import write_bytes
from overread.metrics.overlap import Counts, case_dice, class_counts, jaccard
from overread.pipeline.folders import RunFolder, RunRecord
from overread.records import MAIN, Prepared, TrialOutcome, Variant, VariantScore
from overread.review.figures import pruning_levels
from overread.review.tables import Grid
from overread.training.checkpoint import save_weights
from overread.training.evaluate import predict_case
from overread.training.inference import load_segmenter
from overread.training.worker import OUTCOME, WEIGHTS, check_fits

if TYPE_CHECKING:
    from overread.architectures import Segmenter

TABLE, PICTURE, MODEL = "levels", "levels.png", "member.onnx"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """What `overread prune` may be told."""

    trial: Path
    """Folder of a trial, with `outcome.json` and its weights."""
    out: Path
    tolerance: float = 0.005
    """Dice that the chosen level may lose on the validation cases."""
    level: int | None = None
    """Keep this level; None: the smallest one within the tolerance."""
    onnx: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Pruned:
    """The levels and the one that was kept."""

    scores: tuple[LevelScore, ...]
    kept: LevelScore
    outcome: TrialOutcome
    onnx_difference: float | None
    """Largest difference of probabilities between PyTorch and ONNX Runtime; None: not exported."""


def read_trial(folder: Path) -> TrialOutcome:
    """Read the outcome of a trial that left weights; anything else raises `UserError`."""
    path = folder / OUTCOME
    if not path.is_file():
        raise UserError(f"--trial must be the folder of a trial with {OUTCOME}, but {folder} has none: check the path")
    outcome = TrialOutcome.load(path)
    if outcome.weights is None or not (folder / outcome.weights).is_file():
        raise UserError(f"trial {folder} must have weights, but its state is {outcome.state}: choose another trial")
    return outcome


def run_of(trial: Path) -> RunRecord | None:
    """Return the record of the run that a trial's folder lies in, if it lies in one."""
    for parent in trial.resolve().parents:
        if RunFolder(parent).record.is_file():
            return RunFolder(parent).load()
    return None


def check(settings: PruneSettings) -> None:
    """Raise `UserError` for what can be told before any data is read."""
    check_tolerance(settings.tolerance)
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise UserError(f"{settings.out} must not exist yet, but it does: give another --out")
    segmenter = _load(settings, read_trial(settings.trial))
    if settings.level is not None:
        find_level(segmenter, settings.level)
    levels_of(segmenter)
    if settings.onnx:
        check_export(segmenter)


def check_cases(outcome: TrialOutcome, prepared: Prepared) -> None:
    """Raise `UserError` unless the trial fits the data and was validated on the same cases as they say."""
    check_fits(outcome.config, prepared)
    validated = {case for score in outcome.variants[:1] for case in score.case_dice}
    cases = set(prepared.splits.fold(outcome.config.fold).validation)
    if validated != cases:
        raise UserError(
            f"data must be split as for trial {outcome.trial_id}, but of its {len(validated)} validation cases and the "
            f"{len(cases)} of fold {outcome.config.fold} only {len(validated & cases)} are the same: give the --data, "
            "--seed, --folds and --group-pattern of its training"
        )


def prune(settings: PruneSettings, prepared: Prepared) -> Pruned:
    """Measure all levels on the validation cases of the trial's fold and write the chosen one to `settings.out`.

    Data prepared otherwise than for the trial raise `UserError`: the level would be chosen on cases it trained on.

    The folder holds `levels.csv`, `levels.md`, `levels.png`, `weights.safetensors`, `member.onnx` if asked for, and
    `outcome.json`: it is a trial's folder, whose network has the chosen level only. It appears whole or not at all.
    """
    outcome = read_trial(settings.trial)
    check_cases(outcome, prepared)
    segmenter = _load(settings, outcome)
    scores, records = [], {}
    for variant in levels_of(segmenter):
        score, record = _measure(segmenter, variant, prepared, outcome, settings)
        log.info("level %d: validation Dice %.4f, %s parameters", score.cost.level, score.dice, score.cost.parameters)
        scores.append(score)
        records[score.cost.level] = record
    kept = choose_level(scores, settings.tolerance)
    if settings.level is not None:
        kept = next(score for score in scores if score.cost.level == settings.level)
    part = stand_alone(segmenter, find_level(segmenter, kept.cost.level))
    pruned = TrialOutcome(
        trial_id=f"{outcome.trial_id}-level_{kept.cost.level}",
        config=replace(outcome.config, options=dict(part.options)),
        state="finished",
        reason=f"level {kept.cost.level} of {outcome.trial_id}",
        epochs=outcome.epochs,
        variants=(replace(records[kept.cost.level], variant=MAIN),),
        parameters=kept.cost.parameters,
        seconds=outcome.seconds,
        workers=outcome.workers,
        weights=WEIGHTS,
    )
    grid = level_grid(scores, kept)
    iou = {score.cost.level: score.iou for score in scores}
    difference = None
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.out.parent, prefix=".partial-") as temporary:
        folder = Path(temporary) / "pruned"
        write_bytes(folder / f"{TABLE}.csv", grid.csv().encode())
        write_bytes(folder / f"{TABLE}.md", grid.markdown().encode())
        pruning_levels(folder / PICTURE, [score.cost for score in scores], iou, scores[0].cases)
        save_weights(folder / WEIGHTS, part.segmenter)
        if settings.onnx:
            size, channels = outcome.config.patch_size, outcome.config.in_channels
            difference = export_onnx(part.segmenter, folder / MODEL, in_channels=channels, size=size)
        pruned.save(folder / OUTCOME)
        folder.rename(settings.out)
    return Pruned(tuple(scores), kept, pruned, difference)


def _load(settings: PruneSettings, outcome: TrialOutcome) -> Segmenter:
    return load_segmenter(outcome.config, settings.trial / str(outcome.weights), settings.device)


def _measure(
    segmenter: Segmenter, variant: Variant, prepared: Prepared, outcome: TrialOutcome, settings: PruneSettings
) -> tuple[LevelScore, VariantScore]:
    """Read the validation cases with a level that stands alone."""
    part = stand_alone(segmenter, variant).segmenter.eval()
    cases = prepared.splits.fold(outcome.config.fold).validation
    dice: dict[str, float] = {}
    per_class: dict[str, list[float]] = {label: [] for label in prepared.label_names[1:]}
    foreground, seconds = [], 0.0
    cost = level_cost(segmenter, variant, in_channels=outcome.config.in_channels, size=outcome.config.patch_size)
    for case_id in cases:
        started = time.perf_counter()
        mask = predict_case(part, prepared, case_id, outcome.config, None, settings.device)
        seconds += time.perf_counter() - started
        truth = open_case(prepared, case_id).truth
        found = case_dice(mask, truth, prepared.classes)
        dice[case_id] = found.mean
        for label, value in zip(per_class, found.per_class, strict=True):
            if value is not None:
                per_class[label].append(value)
        foreground.append(class_counts(mask, truth, prepared.classes)[0].complement)
    pooled = sum(foreground, start=Counts(0, 0, 0, 0))
    mean = sum(dice.values()) / len(dice)
    score = LevelScore(
        cost=cost,
        seconds_per_case=seconds / len(cases),
        dice=mean,
        iou=sum(jaccard.formula(counts) for counts in foreground) / len(foreground),
        pooled_iou=jaccard.formula(pooled),
        cases=len(cases),
    )
    record = VariantScore(
        variant=variant.name,
        dice=mean,
        dice_per_class={label: sum(values) / len(values) if values else None for label, values in per_class.items()},
        cases=len(cases),
        seconds_per_case=score.seconds_per_case,
        case_dice=dice,
    )
    return score, record


def level_grid(scores: list[LevelScore], kept: LevelScore | None = None) -> Grid:
    """Return the table of all levels; the kept one is marked."""
    rows = tuple(
        (
            f"L{s.cost.level}" + ("*" if s is kept else ""),
            f"{s.cost.parameters:,}",
            f"{s.cost.flops / 1e9:.3f}",
            f"{1000 * s.cost.seconds:.1f}",
            f"{1000 * s.seconds_per_case:.1f}",
            f"{s.dice:.4f}",
            f"{s.iou:.4f}",
            f"{s.pooled_iou:.4f}",
            str(s.cases),
        )
        for s in scores
    )
    patch = f"patch of {scores[0].cost.sides}"
    costs = ("parameters", f"GFLOPs per {patch}", f"ms per {patch}", "ms per case")
    columns = ("level", *costs, "Dice", "IoU", "pooled IoU", "n")
    return Grid("Pruning levels on the validation cases (* kept)", columns, rows)
