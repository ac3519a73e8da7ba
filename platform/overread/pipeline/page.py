"""From the results of a run to its review page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from overread.confidence.coverage import CoveragePoint, coverage_curve
from overread.confidence.judgement import CLASS, MEAN, Judgement, shift_warning
from overread.confidence.ranking import DEFAULT_SCORE, known_score, ranking_score, score_if_any
from overread.metrics.summary import summarise
from overread.pipeline.reading import CaseResult
from overread.pipeline.stages import shift_of
from overread.pipeline.summary import (
    ENSEMBLE,
    PREDICTED,
    SCORES,
    Generalisation,
    MemberFigures,
    RunSummary,
    class_summary,
    foregrounds,
    groups,
)
from overread.records import ImportedMember, Manifest, Member
from overread.review.page_data import PictureLimits
from overread.review.report import BoundRow, CaseRow, EnsembleSummary, MemberRow, ReportData, write_report
from overread.review.views import CaseView
from overread.review.words import SIGNED, between, number

RANKED_BY = (DEFAULT_SCORE, PREDICTED, "entropy")
"""The first that any case has orders the page."""
LEVEL = 0.05
"""Of the tests between members."""

RETRAINED = (
    "Members are winners trained again, with new seeds, on the cases of all folds: no case is left to validate them, "
    "so they have no validation Dice. Their votes are those of the winners that they repeat."
)
"""Of a deep ensemble."""
RETRAINED_BOUNDS = (
    "The errors of the predicted Dice are of the winners that these members repeat: what predicts it was fitted and "
    "judged on readings of theirs. The widths are of these members, fitted anew on the calibration groups."
)


def write_page(
    path: Path,
    manifest: Manifest,
    results: Sequence[CaseResult],
    folder: Path,
    summary: RunSummary | None = None,
    *,
    judgement: Judgement | None = None,
    limits: PictureLimits | None = None,
    failure_dice: float | None = None,
) -> None:
    """Write `report.html`; `folder` is the prediction folder. Without a summary the cases have no truth.

    A case of Dice below `failure_dice` is a failure, for what a review catches; None: as in the summary.
    """
    data = report_data(manifest, results, folder, summary, judgement, limits)
    known = [found.failure_dice for found in summary.failure.values()] if summary is not None else []
    write_report(path, replace(data, failure_dice=failure_dice or next(iter(known), data.failure_dice)))


def report_data(
    manifest: Manifest,
    results: Sequence[CaseResult],
    folder: Path,
    summary: RunSummary | None,
    judgement: Judgement | None = None,
    limits: PictureLimits | None = None,
) -> ReportData:
    """Collect what the page shows."""
    figures = {} if summary is None else {member.name: member for member in summary.members}
    known = [result for result in results if result.dice is not None]
    return ReportData(
        title=f"overread: {manifest.name}",
        dataset=manifest.name,
        cases=[_case(result, folder) for result in results],
        members=[_member(member, figures.get(member.name)) for member in manifest.voters],
        ensemble=_ensemble(summary, known, manifest) if summary is not None and known else None,
        correlations=summary.confidence if summary is not None else {},
        coverage={score: _coverage(score, known) for score in _curves(known)},
        bounds=_bounds(summary, judgement),
        bounds_note=RETRAINED_BOUNDS if _retrained(manifest) else "",
        settings=_settings(manifest),
        notes=_notes(manifest, summary, judgement),
        warnings=_warnings(results, judgement),
        limits=limits or PictureLimits(),
        score=known_score([result.confidence for result in results], RANKED_BY),
    )


def _member(member: Member | ImportedMember, figures: MemberFigures | None) -> MemberRow:
    row = MemberRow.of(member, figures.locked_dice if figures else None)
    if figures is None:
        return row
    return replace(row, contribution=figures.contribution, error_correlation=figures.error_correlation)


def _case(result: CaseResult, folder: Path) -> CaseRow:
    path = folder / result.view if result.view else None
    return CaseRow(
        confidence=result.confidence,
        dice=result.dice,
        dice_per_class=result.dice_per_class,
        view=partial(CaseView.load, path) if path is not None and path.is_file() else None,
    )


def _warnings(results: Sequence[CaseResult], judgement: Judgement | None) -> list[str]:
    warning = shift_warning(shift_of(results, judgement))
    return [warning[0].upper() + warning[1:]] if warning else []


def _ensemble(summary: RunSummary, known: Sequence[CaseResult], manifest: Manifest) -> EnsembleSummary:
    return EnsembleSummary(
        dice=summarise([result.dice for result in known if result.dice is not None], groups=groups(known)),
        per_class={label: class_summary(known, label) for label in manifest.label_names[1:]},
        foreground=summary.ensemble.by_foreground,
    )


def _curves(known: Sequence[CaseResult]) -> tuple[str, ...]:
    """Return the scores whose curve is drawn, those that any case has."""
    return tuple(s for s in (*SCORES, PREDICTED) if any(score_if_any(r.confidence, s) is not None for r in known))


def _retrained(manifest: Manifest) -> bool:
    return any(member.retrained for member in manifest.members)


def _bounds(summary: RunSummary | None, judgement: Judgement | None) -> list[BoundRow]:
    """Return what is known of predicted Dice and lower bound of each target, measured where the truth is known."""
    if judgement is None:
        return []
    return [
        BoundRow(
            target=target.removeprefix(CLASS) if target != MEAN else "mean over classes",
            error=judge.regressor.error if judge.regressor else None,
            error_of_mean=judge.regressor.error_of_mean if judge.regressor else None,
            wanted=judge.bound.coverage,
            calibration_groups=judge.bound.groups,
            width=judge.bound.quantile,
            measured=summary.bounds.get(target) if summary is not None else None,
            resplit=summary.resplit_bounds.get(target) if summary is not None else None,
        )
        for target, judge in judgement.targets.items()
    ]


def _coverage(score: str, known: Sequence[CaseResult]) -> tuple[CoveragePoint, ...]:
    scores = [ranking_score(result.confidence, score) for result in known]
    dice = [result.dice for result in known if result.dice is not None]
    return coverage_curve(scores, dice, foreground=foregrounds(known))


def _settings(manifest: Manifest) -> Mapping[str, str]:
    facts = {"winners": manifest.winners[:12], "data": manifest.prepared[:12], "seed": str(manifest.seed)}
    return facts | {f"version of {name}": version for name, version in manifest.versions.items()}


def _generalisation_note(found: Generalisation, *, chosen: bool) -> str:
    seen, locked, apart = found.validation, found.locked, found.difference
    text = f"Ensemble Dice {number(seen.mean)} on the {seen.n} validation cases" + (
        " that members were chosen by" if chosen else ""
    )
    text += f" and {number(locked.mean)} on the {locked.n} locked ones"
    if apart.mean is None or apart.low is None or apart.high is None:
        return f"{text}."
    return f"{text}: {apart.mean:+.4f} (95 % interval {between(apart.low, apart.high, SIGNED)})."


def _notes(manifest: Manifest, summary: RunSummary | None, judgement: Judgement | None) -> list[str]:
    notes = _bound_notes(summary, judgement)
    if _retrained(manifest):
        notes.append(RETRAINED)
    if summary is not None:
        how = "chosen by validation Dice" if manifest.members else "named by a person"
        notes.append(f"Members were {how} and frozen before the locked cases were read.")
        if summary.baseline is not None and summary.baseline.locked_dice is not None:
            gain = summary.differences.get("ensemble_minus_baseline")
            notes.append(
                f"A plain U-Net of the same search reads the locked cases with Dice {summary.baseline.locked_dice:.3f}"
                + (f"; the ensemble differs by {gain.mean:+.4f} ({between(gain.low, gain.high, SIGNED)}, n = {gain.n})."
                   if gain and gain.mean is not None and gain.low is not None and gain.high is not None else ".")
            )  # fmt: skip
        if (ensemble := summary.generalisation.get(ENSEMBLE)) is not None:
            notes.append(_generalisation_note(ensemble, chosen=bool(manifest.members)))
        if summary.winner_tests:
            differ = sum(test.p_holm is not None and test.p_holm < LEVEL for test in summary.winner_tests)
            notes.append(
                f"{differ} of {len(summary.winner_tests)} pairs of members differ on the locked cases (paired Wilcoxon "
                f"by group, Holm-corrected p below {LEVEL:g})."
            )
        if summary.locked_uses > 1:
            notes.append(
                f"These locked cases have been read {summary.locked_uses} times, by any package or experiment."
            )
    if manifest.imported:
        names = ", ".join(member.name for member in manifest.imported)
        notes.append(
            f"Readings of other tools or people vote too: {names}. What they were trained on is not known here."
        )
    if manifest.earlier_packages:
        notes.append(
            f"{len(manifest.earlier_packages)} earlier package(s) or experiment(s) were measured on the same locked "
            "cases: figures of choices made after seeing those are optimistic."
        )
    return notes


def _bound_notes(summary: RunSummary | None, judgement: Judgement | None) -> list[str]:
    """Return what the lower bound promises, and how often it held where the truth is known."""
    if judgement is None or MEAN not in judgement.targets:
        return []
    bound = judgement.targets[MEAN].bound
    if bound.quantile is None:
        return [f"There is no lower bound of the Dice: {bound.groups} calibration groups are too few for it."]
    promise = f"The lower bound of the Dice should hold for {100 * judgement.coverage:g} % of cases like those of the "
    notes = [f"{promise}calibration ({bound.groups} groups)."]
    measured = summary.bounds.get(MEAN) if summary is not None else None
    share = (measured.share, measured.low, measured.high) if measured is not None else ()
    if measured is not None and None not in share:
        held, low, high = (f"{100 * value:.0f}" for value in share if value is not None)
        notes.append(
            f"On the locked cases it held in {measured.held} of {measured.groups} groups ({held} %; "
            f"{low} to {high} % is expected of so many groups)."
        )
    return notes
