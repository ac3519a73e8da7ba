"""`summary.json`: the figures of a run, made from the results of the locked split."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from overread.confidence.conformal import MeasuredCoverage, Shift
from overread.confidence.coverage import Correlation, correlation
from overread.confidence.failure_detection import (
    FAILURE_DICE,
    FailureDetection,
    PairedDifference,
    aurc_difference,
    failure_detection,
)
from overread.confidence.judgement import ANCHOR, Judgement
from overread.confidence.ranking import score_if_any
from overread.ensemble.annotators import AnnotatorTable, annotator_tables
from overread.ensemble.evaluate import EvaluationTable, tabulate
from overread.jsonio import JsonRecord
from overread.metrics.paired_tests import PairedTest, compare_pairs
from overread.metrics.summary import (
    ForegroundSplit,
    Summary,
    paired_bootstrap,
    split_by_foreground,
    summarise,
    unpaired_bootstrap,
)
from overread.pipeline.reading import CaseResult, known_cases
from overread.pipeline.selection_report import Brought
from overread.records import ImportedMember, Manifest, Member

LIBRARIES = ("overread", "torch", "ray", "optuna", "mlflow", "numpy", "scipy", "nibabel")
SCORES = ("relation_confidence", "pairwise_dice")
PREDICTED = "predicted_dice"
ENSEMBLE = "ensemble"
BASELINE = "ensemble_minus_baseline"
BEST_MEMBER = "ensemble_minus_best_member_by_validation"
"""The member that a user would have taken alone: of highest validation Dice."""
ORACLE_MEMBER = "ensemble_minus_best_member_by_locked_oracle"
"""The member of highest locked Dice: nobody can know it, and its Dice is flattered by the choice."""


@dataclass(frozen=True, kw_only=True)
class MemberFigures(JsonRecord):
    """One member of the ensemble, or the baseline."""

    name: str
    architecture: str
    variant: str
    validation_dice: float | None
    """None: an imported member without validation cases, or a winner retrained on these, too."""
    locked_dice: float | None
    """Mean over the locked cases of the class-mean Dice."""
    n: int = 0
    """Locked cases that it read."""
    contribution: Summary | None = None
    """To the Dice of the ensemble, on the cases that members were selected by; None: not measured."""
    error_correlation: float | None = None
    """Mean correlation of its errors with those of the other members, by voxel, on the same cases."""


@dataclass(frozen=True, kw_only=True)
class EnsembleFigures(JsonRecord):
    """The ensemble on the locked split."""

    locked_dice: float | None
    locked_dice_per_class: dict[str, float | None]
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval of the mean, resampled by group."""
    per_class_n: dict[str, int] = field(default_factory=dict)
    by_foreground: ForegroundSplit | None = None
    """Cases with foreground apart from normal ones."""


@dataclass(frozen=True, kw_only=True)
class Generalisation(JsonRecord):
    """Dice on the cases that winners were chosen by, and on those that nobody had seen."""

    validation: Summary
    locked: Summary
    difference: Summary
    """Locked minus validation, of different cases: below 0 by the optimism of the choice."""


@dataclass(frozen=True, kw_only=True)
class RunSummary(JsonRecord):
    """`summary.json`."""

    dataset: str
    members: tuple[MemberFigures, ...]
    ensemble: EnsembleFigures
    confidence: dict[str, Correlation]
    """By score: its correlation with the true Dice over the locked cases."""
    difficulty: dict[str, Correlation] = field(default_factory=dict)
    """By score: its correlation with the known difficulty, where the data set tells it (phantom)."""
    baseline: MemberFigures | None = None
    """The plain U-Net of the same search."""
    evaluation: EvaluationTable | None = None
    """The metrics that were asked for, without the cases, which stand in `results.json`; None: none were."""
    annotators: tuple[AnnotatorTable, ...] = ()
    """By structure, where several annotated cases; empty otherwise."""
    differences: dict[str, Summary] = field(default_factory=dict)
    """Paired over the locked cases: ensemble minus `BASELINE`, `BEST_MEMBER` and `ORACLE_MEMBER`."""
    failure: dict[str, FailureDetection] = field(default_factory=dict)
    """By score: how well it finds badly segmented locked cases."""
    aurc_minus_pairwise: dict[str, PairedDifference] = field(default_factory=dict)
    """By score: AURC minus that of pairwise Dice, paired over the locked cases."""
    bounds: dict[str, MeasuredCoverage] = field(default_factory=dict)
    """By target (the class mean, a class): how often the lower bound held on the locked cases."""
    resplit_bounds: dict[str, float] = field(default_factory=dict)
    """By target: mean coverage over 200 divisions of calibration and locked groups; `bounds` have what to expect."""
    shift: Shift | None = None
    """Of the predicted Dice of the locked cases from those of the calibration."""
    warnings: tuple[str, ...] = ()
    """Such as of that shift; they stand on the review page, too."""
    generalisation: dict[str, Generalisation] = field(default_factory=dict)
    """Of every member, the baseline and `ensemble`: empty without a calibration, which reads the validation cases."""
    winner_tests: tuple[PairedTest, ...] = ()
    """Paired Wilcoxon of all pairs of members on the locked cases, corrected for their number."""
    locked_uses: int = 0
    """How often these locked cases have been read, by any package or experiment."""
    trials: dict[str, int] = field(default_factory=dict)
    """Number of trials by architecture and by state."""
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0


def versions() -> dict[str, str]:
    """Return the versions of Python and the libraries that figures depend on."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version()} | found


def summarise_run(
    dataset: str,
    manifest: Manifest,
    results: Sequence[CaseResult],
    *,
    seconds: Mapping[str, float],
    trials: Mapping[str, int],
    difficulty: Mapping[str, float] | None = None,
    judgement: Judgement | None = None,
    calibration: Sequence[CaseResult] = (),
    validation: Sequence[CaseResult] = (),
    locked_uses: int = 0,
    brought: Mapping[str, Brought] | None = None,
    failure_dice: float = FAILURE_DICE,
) -> RunSummary:
    """Compute the figures of a run from its locked cases; cases without truth are left out.

    `calibration` and `validation` are what a calibrated package read; they count only with its `judgement`. `brought`
    is what each member brings, by name. A case of Dice below `failure_dice` is a failure.
    """
    known = [result for result in results if result.dice is not None]
    scores = score_columns(known)
    members = tuple(_member(member, known, (brought or {}).get(member.name)) for member in manifest.voters)
    baseline = _member(manifest.baseline, known) if manifest.baseline else None
    return RunSummary(
        dataset=dataset,
        members=members,
        ensemble=_ensemble(known, manifest.label_names[1:]),
        confidence={score: _with_dice(score, known) for score in scores},
        difficulty={score: _with_difficulty(score, known, difficulty) for score in scores} if difficulty else {},
        baseline=baseline,
        evaluation=_evaluation(known, manifest.label_names),
        annotators=_annotators(known),
        differences=_differences(known, members, baseline),
        failure={score: _failure(score, known, failure_dice) for score in scores} if known else {},
        aurc_minus_pairwise={s: _against(s, ANCHOR, known) for s in scores if s != ANCHOR and ANCHOR in scores},
        bounds=judgement.measure(known_cases(known)) if judgement is not None else {},
        resplit_bounds=judgement.remeasure(known_cases(calibration), known_cases(known)) if judgement else {},
        generalisation=_generalisation(validation, known) if judgement and validation else {},
        winner_tests=_winner_tests(manifest, known),
        locked_uses=locked_uses,
        trials=dict(trials),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        versions=versions(),
        seed=manifest.seed,
    )


def _evaluation(results: Sequence[CaseResult], label_names: Sequence[str]) -> EvaluationTable | None:
    rows = [result.evaluation for result in results if result.evaluation is not None]
    if not rows or len(rows) < len(results):
        return None
    return replace(tabulate(rows, label_names, tuple(rows[0].mean), groups(results)), cases=())


def _annotators(results: Sequence[CaseResult]) -> tuple[AnnotatorTable, ...]:
    several = [result for result in results if result.agreement]
    return annotator_tables([result.agreement for result in several], groups(several))


def _generalisation(validation: Sequence[CaseResult], locked: Sequence[CaseResult]) -> dict[str, Generalisation]:
    names = dict.fromkeys(name for result in locked for name in result.member_dice)
    members = {name: _held_apart(validation, locked, name) for name in names}
    return members | {ENSEMBLE: _held_apart(validation, locked, None)}


def _held_apart(validation: Sequence[CaseResult], locked: Sequence[CaseResult], name: str | None) -> Generalisation:
    """Compare the Dice of a member (None: the ensemble) on both splits, on the cases that it read."""
    (seen, known), (unseen, new) = (_dice_of(results, name) for results in (validation, locked))
    return Generalisation(
        validation=summarise(seen, groups=known),
        locked=summarise(unseen, groups=new),
        difference=unpaired_bootstrap(unseen, seen, groups=(new, known)),
    )


def _dice_of(results: Sequence[CaseResult], name: str | None) -> tuple[list[float], list[str]]:
    read = [result for result in results if result.dice is not None and (name is None or name in result.member_dice)]
    return [r.member_dice[name] if name else float(r.dice or 0.0) for r in read], groups(read)


def _winner_tests(manifest: Manifest, results: Sequence[CaseResult]) -> tuple[PairedTest, ...]:
    dice = {
        member.name: {r.confidence.case: r.member_dice[member.name] for r in results if member.name in r.member_dice}
        for member in manifest.voters
    }
    group = dict(zip((result.confidence.case for result in results), groups(results), strict=True))
    return compare_pairs(dice, group) if results else ()


def score_columns(results: Sequence[CaseResult]) -> tuple[str, ...]:
    """Return the names of the scores that any case has, those of every ensemble first."""
    names = dict.fromkeys([*SCORES, PREDICTED, *(name for r in results for name in r.confidence.scores)])
    return tuple(name for name in names if any(_score(result, name) is not None for result in results))


def groups(results: Sequence[CaseResult]) -> list[str]:
    """Return the group of every case, by which intervals resample."""
    return [result.group or result.confidence.case for result in results]


def class_summary(results: Sequence[CaseResult], label: str) -> Summary:
    """Return the figures of a class over the cases that have it."""
    having = [result for result in results if result.dice_per_class.get(label) is not None]
    return summarise([float(result.dice_per_class[label] or 0.0) for result in having], groups=groups(having))


def _score(result: CaseResult, name: str) -> float | None:
    return score_if_any(result.confidence, name)


def _dices(results: Sequence[CaseResult]) -> list[float]:
    return [float(result.dice) for result in results if result.dice is not None]


def _member(
    member: Member | ImportedMember, results: Sequence[CaseResult], brought: Brought | None = None
) -> MemberFigures:
    measured = summarise([r.member_dice[member.name] for r in results if member.name in r.member_dice])
    return MemberFigures(
        name=member.name,
        architecture=member.architecture,
        variant=member.variant,
        validation_dice=member.own_validation_dice,
        locked_dice=measured.mean,
        n=measured.n,
        contribution=brought.contribution if brought else None,
        error_correlation=brought.error_correlation if brought else None,
    )


def _ensemble(results: Sequence[CaseResult], labels: Sequence[str]) -> EnsembleFigures:
    names = groups(results)
    overall = summarise(_dices(results), groups=names)
    classes = {label: class_summary(results, label) for label in labels}
    has = [bool(result.has_foreground) for result in results]
    return EnsembleFigures(
        locked_dice=overall.mean,
        locked_dice_per_class={label: values.mean for label, values in classes.items()},
        n=overall.n,
        sd=overall.sd,
        low=overall.low,
        high=overall.high,
        per_class_n={label: values.n for label, values in classes.items()},
        by_foreground=split_by_foreground(
            _dices(results), has, [r.predicted_foreground for r in results], groups=names
        ),
    )


def _with_dice(score: str, results: Sequence[CaseResult]) -> Correlation:
    return correlation([_score(result, score) for result in results], _dices(results))


def _failure(score: str, results: Sequence[CaseResult], failure_dice: float) -> FailureDetection:
    scores, foreground = [_score(r, score) for r in results], foregrounds(results)
    names = groups(results)
    return failure_detection(scores, _dices(results), groups=names, failure_dice=failure_dice, foreground=foreground)


def _against(score: str, other: str, results: Sequence[CaseResult]) -> PairedDifference:
    first, second = ([_score(result, name) for result in results] for name in (score, other))
    return aurc_difference(first, second, _dices(results), foreground=foregrounds(results), groups=groups(results))


def foregrounds(results: Sequence[CaseResult]) -> list[float]:
    """Return what ranks the cases that no score ranks."""
    return [result.confidence.foreground for result in results]


def _with_difficulty(score: str, results: Sequence[CaseResult], difficulty: Mapping[str, float]) -> Correlation:
    graded = [result for result in results if result.confidence.case in difficulty]
    scores = [_score(result, score) for result in graded]
    return correlation(scores, [difficulty[result.confidence.case] for result in graded])


def _differences(
    results: Sequence[CaseResult], members: Sequence[MemberFigures], baseline: MemberFigures | None
) -> dict[str, Summary]:
    measured = [member for member in members if member.locked_dice is not None]
    validated = [member for member in measured if member.validation_dice is not None]
    rivals = {BASELINE: baseline}
    if validated:
        rivals[BEST_MEMBER] = max(validated, key=lambda member: member.validation_dice or 0.0)
    if measured:
        rivals[ORACLE_MEMBER] = max(measured, key=lambda member: member.locked_dice or 0.0)
    differences = {}
    for name, rival in rivals.items():
        both = [result for result in results if rival and rival.name in result.member_dice]
        if rival and both:
            theirs = [result.member_dice[rival.name] for result in both]
            differences[name] = paired_bootstrap(_dices(both), theirs, groups=groups(both))
    return differences
