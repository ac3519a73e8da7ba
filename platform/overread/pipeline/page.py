"""From the results of a run to its review page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from overread.confidence.coverage import CoveragePoint, coverage_curve
from overread.confidence.ranking import ranking_score
from overread.metrics.summary import summarise
from overread.pipeline.pictures import legend
from overread.pipeline.reading import CaseResult
from overread.pipeline.summary import ENSEMBLE, SCORES, Generalisation, RunSummary, class_summary, groups
from overread.records import Manifest
from overread.review.report import CaseRow, EnsembleSummary, MemberRow, ReportData, number, write_report

LEVEL = 0.05
"""Of the tests between members."""


def write_page(
    path: Path, manifest: Manifest, results: Sequence[CaseResult], pictures: Path, summary: RunSummary | None = None
) -> None:
    """Write `report.html`; `pictures` is the prediction folder. Without a summary the cases have no truth."""
    write_report(path, report_data(manifest, results, pictures, summary))


def report_data(
    manifest: Manifest, results: Sequence[CaseResult], pictures: Path, summary: RunSummary | None
) -> ReportData:
    """Collect what the page shows."""
    locked = {} if summary is None else {member.name: member.locked_dice for member in summary.members}
    known = [result for result in results if result.dice is not None]
    return ReportData(
        title=f"overread: {manifest.name}",
        dataset=manifest.name,
        cases=[_case(result, pictures) for result in results],
        members=[MemberRow.of(member, locked.get(member.name)) for member in manifest.voters],
        ensemble=_ensemble(summary, known, manifest) if summary is not None and known else None,
        correlations=summary.confidence if summary is not None else {},
        coverage={score: _coverage(score, known) for score in SCORES} if known else {},
        settings=_settings(manifest),
        notes=_notes(manifest, summary),
        legend=legend(manifest.label_names),
    )


def _case(result: CaseResult, pictures: Path) -> CaseRow:
    return CaseRow(
        confidence=result.confidence,
        dice=result.dice,
        dice_per_class=result.dice_per_class,
        panel=partial((pictures / result.picture).read_bytes) if result.picture else None,
        caption=f"Case {result.confidence.case}, the slice with most foreground",
    )


def _ensemble(summary: RunSummary, known: Sequence[CaseResult], manifest: Manifest) -> EnsembleSummary:
    return EnsembleSummary(
        dice=summarise([result.dice for result in known if result.dice is not None], groups=groups(known)),
        per_class={label: class_summary(known, label) for label in manifest.label_names[1:]},
        foreground=summary.ensemble.by_foreground,
    )


def _coverage(score: str, known: Sequence[CaseResult]) -> tuple[CoveragePoint, ...]:
    scores = [ranking_score(result.confidence, score) for result in known]
    return coverage_curve(scores, [result.dice for result in known if result.dice is not None])


def _settings(manifest: Manifest) -> Mapping[str, str]:
    facts = {"winners": manifest.winners[:12], "data": manifest.prepared[:12], "seed": str(manifest.seed)}
    return facts | {f"version of {name}": version for name, version in manifest.versions.items()}


def _generalisation_note(found: Generalisation) -> str:
    seen, locked, apart = found.validation, found.locked, found.difference
    text = f"Ensemble Dice {number(seen.mean)} on the {seen.n} validation cases that members were chosen by"
    text += f" and {number(locked.mean)} on the {locked.n} locked ones"
    if apart.mean is None or apart.low is None or apart.high is None:
        return f"{text}."
    return f"{text}: {apart.mean:+.4f} (95 % interval {apart.low:+.4f} to {apart.high:+.4f})."


def _notes(manifest: Manifest, summary: RunSummary | None) -> list[str]:
    notes = []
    if summary is not None:
        notes.append("Members were chosen by validation Dice and frozen before the locked cases were read.")
        if summary.baseline is not None and summary.baseline.locked_dice is not None:
            gain = summary.differences.get("ensemble_minus_baseline")
            notes.append(
                f"A plain U-Net of the same search reads the locked cases with Dice {summary.baseline.locked_dice:.3f}"
                + (f"; the ensemble differs by {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}, n = {gain.n})."
                   if gain and gain.mean is not None and gain.low is not None and gain.high is not None else ".")
            )  # fmt: skip
        if (ensemble := summary.generalisation.get(ENSEMBLE)) is not None:
            notes.append(_generalisation_note(ensemble))
        if summary.winner_tests:
            differ = sum(test.p_holm is not None and test.p_holm < LEVEL for test in summary.winner_tests)
            notes.append(
                f"{differ} of {len(summary.winner_tests)} pairs of members differ on the locked cases (paired Wilcoxon "
                f"by group, Holm-corrected p below {LEVEL:g})."
            )
        if summary.locked_uses > 1:
            notes.append(f"These locked cases have been read {summary.locked_uses} times, by any package.")
    if manifest.imported:
        names = ", ".join(member.name for member in manifest.imported)
        notes.append(
            f"Readings of other tools or people vote too: {names}. What they were trained on is not known here."
        )
    if manifest.earlier_packages:
        notes.append(
            f"{len(manifest.earlier_packages)} earlier package(s) were measured on the same locked cases: "
            "figures of choices made after seeing those are optimistic."
        )
    return notes
