"""Pictures of the failure benchmark: risk over coverage, Dice and AURC over strength, and corrupted examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from overread.confidence.coverage import coverage_curve
from overread.data.corruptions import CLEAN, CORRUPTIONS, STRENGTHS, conditions, corrupt
from overread.data.store import open_case
from overread.ensemble.fusion import SoftVote
from overread.reproduction.failure_methods import ENSEMBLES, FIVE_ARCHITECTURES, PAIRWISE, SHOWN, Bench, Method
from overread.reproduction.failure_readings import EnsembleItem, at, stored_readings
from overread.reproduction.failure_tables import ALL
from overread.reproduction.results import Findings
from overread.review import figures

STRONGEST = STRENGTHS[-1]


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the pictures whose rows are trained; return their paths."""
    bench = Bench(findings)
    makers: tuple[Callable[[Bench, Path], Path | None], ...] = (_risk_coverage, _strength, _examples)
    return tuple(path for maker in makers if (path := maker(bench, folder)) is not None)


def _risk_coverage(bench: Bench, folder: Path) -> Path | None:
    shown = bench.methods(SHOWN)
    if not shown:
        return None
    path = folder / "risk-coverage.png"
    with figures.drawing(path, 6.2, 4.4, 2) as axes:
        for ax, (title, chosen) in zip(axes[0], ((CLEAN, [CLEAN]), (ALL, conditions())), strict=True):
            figures.lines(
                ax, {m.title: _risks(bench, m, chosen) for m in shown}, title, "coverage (%)", "mean 1 - Dice"
            )
            ax.set_ylim(bottom=0)
    return path


def _risks(bench: Bench, method: Method, chosen: Sequence[str]) -> list[tuple[float, float]]:
    scored = bench.scored(method, chosen)
    points = coverage_curve(scored.confidence, scored.dice, foreground=scored.foreground)
    return [(float(p.coverage), 1 - p.dice) for p in points]


def _strength(bench: Bench, folder: Path) -> Path | None:
    """Draw the Dice of an ensemble over the strength of each corruption, clean at 0."""
    name = next((name for name in ENSEMBLES if name in bench.findings.results), None)
    if name is None:
        return None
    path = folder / "corruptions.png"
    method = Method(name, PAIRWISE, "")

    def dice(condition: str) -> float:
        return float(np.mean(bench.scored(method, [condition]).dice))

    clean = (0.0, dice(CLEAN))
    series = {kind: [clean, *((float(s), dice(f"{kind}-{s}")) for s in STRENGTHS)] for kind in CORRUPTIONS}
    with figures.drawing(path) as axes:
        figures.lines(axes, series, f"{name}: Dice under corruptions", "strength", "mean Dice")
        axes.set_xticks([0, *STRENGTHS])
    return path


def _examples(bench: Bench, folder: Path) -> Path | None:
    """Draw the slice with most truth of the case of median Dice, clean and in each corruption at its strongest."""
    findings, name = bench.findings, FIVE_ARCHITECTURES
    if name not in findings.results or not findings.tested(*ENSEMBLES[name]):
        return None
    ranked = sorted((c for c in bench.cases(name) if c.has_foreground), key=lambda c: c.values["class_dice"] or 0.0)
    if not ranked:
        return None
    case = ranked[len(ranked) // 2]
    _, (place, truth) = findings.shown_slice(case.case)
    prepared = findings.prepared
    folders = {row: str(findings.networks[row][0][1].parent) for row in ENSEMBLES[name]}
    item = EnsembleItem(case=case.case, prepared=prepared.root, folders=folders)
    image = np.array(open_case(prepared, case.case).image)
    panels = []
    for condition in (CLEAN, *(f"{kind}-{STRONGEST}" for kind in CORRUPTIONS)):
        vote = SoftVote()
        for _, probabilities in stored_readings(item, prepared, condition):
            vote.add(probabilities)
        seen = corrupt(image, condition, case.case, prepared.settings.seed)[0, place]
        masks = {"truth": truth, "ensemble": findings.slice_of(vote.mean().argmax(0) > 0, place)}
        dice, pairwise = (case.values[at(n, condition)] for n in ("class_dice", PAIRWISE))
        told = "none" if pairwise is None else f"{pairwise:.2f}"
        panels.append(figures.Contoured(f"{condition}: Dice {dice:.2f}, pairwise {told}", seen, masks))
    return figures.contoured(folder / "corrupted-examples.png", panels)
