"""What commands print at their end, as tables of the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from overread.review import tables
from overread.review.tables import Grid
from overread.review.words import SIGNED, between, interval, number, with_interval

if TYPE_CHECKING:
    from overread.confidence.conformal import MeasuredCoverage
    from overread.confidence.coverage import Correlation
    from overread.confidence.failure_detection import Estimate, FailureDetection
    from overread.ensemble.evaluate import EvaluationTable
    from overread.metrics.summary import Summary
    from overread.pipeline.summary import RunSummary
    from overread.search.budget import PlannedFamily
    from overread.tracking.winners import LeaderboardRow


UNLIMITED = 1000
"""Characters of a line that no table of ours reaches."""


def show(grids: Sequence[Grid]) -> None:
    """Print tables to standard output; a pipe or the log of a job has no width that a table would have to keep to."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=UNLIMITED)
    for grid in grids:
        console.print(grid.rich())


def leaderboard_grid(rows: Sequence[LeaderboardRow], limit: int) -> Grid:
    """Return the first rows of the leaderboard.

    With the validation cases of each, its Dice without the luck of the choice, and the members of the ensemble; after a
    search by gain also what each added when it ended and who joined the ensemble of the search.
    """
    grid = tables.leaderboard_grid(rows, limit)
    more = [(number(row.cases, "d"), number(row.expected_dice), "*" if row.member else "") for row in rows]
    texts = tuple((*text, *added) for text, added in zip(grid.rows, more, strict=False))
    grid = replace(grid, columns=(*grid.columns, "n", "expected", "member"), rows=texts)
    if all(row.gain is None for row in rows):
        return grid
    gains = ((number(row.gain, SIGNED) if row.gain is not None else "", "*" if row.joined else "") for row in rows)
    texts = tuple((*text, *added) for text, added in zip(grid.rows, gains, strict=False))
    return replace(grid, columns=(*grid.columns, "gain", "joined"), rows=texts)


def summary_grids(summary: RunSummary) -> list[Grid]:
    """Return members, ensemble, differences and confidence of a run."""
    grids = [_members(summary), _classes(summary)]
    grids += evaluation_grids(summary.evaluation) if summary.evaluation else []
    grids += [tables.annotator_grid(summary.annotators)] if summary.annotators else []
    grids += [_differences(summary)]
    grids += [_generalisation(summary)] if summary.generalisation else []
    grids += [_winner_tests(summary)] if summary.winner_tests else []
    grids += [_confidence(summary)]
    return [*grids, *([_failure(summary)] if summary.failure else []), *([_bounds(summary)] if summary.bounds else [])]


def _members(summary: RunSummary) -> Grid:
    rows = [
        (m.name, m.architecture, m.variant, number(m.validation_dice), number(m.locked_dice)) for m in summary.members
    ]
    base = summary.baseline
    if base and base.name not in {member.name for member in summary.members}:
        rows.append(
            (
                "plain U-Net (no vote)",
                base.architecture,
                base.variant,
                number(base.validation_dice),
                number(base.locked_dice),
            )
        )
    rows.append(("ENSEMBLE", f"{len(summary.members)} members", "", number(None), number(summary.ensemble.locked_dice)))
    columns = ("member", "architecture", "variant", "validation Dice", "locked Dice")
    return Grid(f"Members on {summary.dataset}", columns, tuple(rows), left=3)


def _classes(summary: RunSummary) -> Grid:
    e = summary.ensemble
    rows = [(label, number(dice), str(e.per_class_n.get(label, 0))) for label, dice in e.locked_dice_per_class.items()]
    rows.append(("mean", number(e.locked_dice), str(e.n)))
    if e.by_foreground is not None and e.by_foreground.normal:
        rows.append(
            ("cases with foreground", number(e.by_foreground.foreground.mean), str(e.by_foreground.foreground.n))
        )
        rate = f"false-positive rate {number(e.by_foreground.false_positive_rate)}"
        rows.append(("normal cases", rate, str(e.by_foreground.normal)))
    return Grid("Ensemble Dice on the locked split", ("class", "Dice", "n"), tuple(rows))


def _differences(summary: RunSummary) -> Grid:
    def row(name: str, s: Summary) -> tuple[str, ...]:
        return (name.replace("_", " "), number(s.mean, SIGNED), interval(s, SIGNED), str(s.n))

    rows = tuple(row(name, difference) for name, difference in summary.differences.items())
    return Grid("Paired differences of Dice", ("difference", "mean", "95 % interval", "n"), rows)


def _generalisation(summary: RunSummary) -> Grid:
    def text(s: Summary, form: str = ".3f") -> str:
        return with_interval(s.mean, s.low, s.high, form)

    rows = tuple(
        (name, text(g.validation), str(g.validation.n), text(g.locked), str(g.locked.n), text(g.difference, SIGNED))
        for name, g in summary.generalisation.items()
    )
    columns = ("Dice of", "validation (95 %)", "n", "locked (95 %)", "n", "locked minus validation (95 %)")
    return Grid("Validation and locked split", columns, rows)


def _winner_tests(summary: RunSummary) -> Grid:
    rows = tuple(
        (f"{t.first} - {t.second}", number(t.difference, SIGNED), number(t.p), number(t.p_holm), str(t.n))
        for t in summary.winner_tests
    )
    columns = ("members", "mean", "p", f"p, Holm for {len(rows)}", "groups")
    return Grid("Members on the locked split, paired Wilcoxon", columns, rows)


def _confidence(summary: RunSummary) -> Grid:
    def row(name: str, other: str, c: Correlation) -> tuple[str, ...]:
        return (name.replace("_", " "), other, number(c.spearman), number(c.pearson), str(c.n))

    rows = [row(name, "true Dice", c) for name, c in summary.confidence.items()]
    rows += [row(name, "known difficulty", c) for name, c in summary.difficulty.items()]
    return Grid("Confidence", ("score", "against", "Spearman", "Pearson", "n"), tuple(rows), left=2)


def _failure(summary: RunSummary) -> Grid:
    def estimate(e: Estimate) -> str:
        return with_interval(e.value, e.low, e.high)

    def row(name: str, f: FailureDetection) -> tuple[str, ...]:
        other = summary.aurc_minus_pairwise.get(name)
        against = "" if other is None else between(other.difference.low, other.difference.high, SIGNED)
        figures = (estimate(f.aurc), number(f.excess_aurc.value), number(f.augrc.value), estimate(f.auroc))
        return (name.replace("_", " "), *figures, number(f.ece.value), against)

    rows = tuple(row(name, found) for name, found in summary.failure.items())
    threshold = next(iter(summary.failure.values()))
    title = f"Failure detection (Dice below {threshold.failure_dice:g}: {threshold.failures} of {threshold.n} cases)"
    columns = ("score", "AURC (95 %)", "e-AURC", "AUGRC", "AUROC (95 %)", "ECE", "AURC minus pairwise Dice")
    return Grid(title, columns, rows)


def _bounds(summary: RunSummary) -> Grid:
    def row(name: str, m: MeasuredCoverage) -> tuple[str, ...]:
        target = name.removeprefix("class:")
        return (target, f"{m.wanted:g}", number(m.share), between(m.low, m.high), str(m.groups),
                number(summary.resplit_bounds.get(name)), number(m.expected))  # fmt: skip

    rows = tuple(row(name, found) for name, found in summary.bounds.items())
    columns = (
        "Dice of",
        "wanted",
        "held",
        "95 % of the shares lie in",
        "groups",
        "held in 200 re-splits",
        "expected there",
    )
    return Grid("Lower bound of Dice on the locked split", columns, rows)


def plan_grid(plan: Sequence[PlannedFamily]) -> Grid:
    """Return what a search would train."""
    rows = tuple(
        (p.architecture, ", ".join(map(str, p.widths)), str(p.batch_size), f"{1000 * p.step_seconds:.0f}",
         str(p.steps_per_trial), str(p.trials), f"{p.minutes:.1f}")
        for p in plan
    )  # fmt: skip
    columns = ("architecture", "widths", "batch", "ms per step", "steps per trial", "trials", "minutes of training")
    return Grid("Planned search", columns, rows, left=2)


def architecture_grid(entries: Sequence[Mapping[str, Any]]) -> Grid:
    """Return the registered networks, each with its exact parameter count and what that holds for."""
    rows = tuple(
        (e["name"], e["paper"], ", ".join(e["axes"]), f"{e['parameters']:,}",
         f"{e['in_channels']} to {e['classes']} classes, {'x'.join(map(str, e['size']))}")
        for e in entries
    )  # fmt: skip
    return Grid(
        "Architectures", ("name", "paper", "free axes", "parameters", "at channels, classes, size"), rows, left=3
    )


def evaluation_grids(table: EvaluationTable) -> list[Grid]:
    """Return per-class and overall figures of an evaluation: mean, standard deviation, n.

    Where a distance is not defined, it has fewer values than the metric before it, and a column of its own n.
    """
    rows = {label: {m: found[label] for m, found in table.per_class.items()} for label in table.label_names[1:]}
    rows["all cases"] = {m: split.all for m, split in table.overall.items()}
    rows["with foreground"] = {m: split.foreground for m, split in table.overall.items()}
    columns, texts = ["class"], {label: [label] for label in rows}
    counted: list[int] = []
    for place, metric in enumerate(table.overall):
        counts = [found[metric].n for found in rows.values()]
        if place and counts != counted:
            columns.append("n")
            for text, n in zip(texts.values(), counted, strict=True):
                text.append(str(n))
        counted = counts
        columns.append(metric + _unit(metric, table))
        for label, found in rows.items():
            texts[label].append(_with_deviation(found[metric]))
    for text, n in zip(texts.values(), counted, strict=True):
        text.append(str(n))
    grids = [Grid("Evaluation", (*columns, "n"), tuple(map(tuple, texts.values())))]
    if table.instances:
        names = {"aji": "aggregated Jaccard index", "precision_50": "precision at IoU 0.5"}
        objects = tuple((names[name], number(found.mean), str(found.n)) for name, found in table.instances.items())
        grids.append(Grid("Single objects", ("figure", "mean", "n"), objects))
    if table.annotators:
        grids.append(tables.annotator_grid(table.annotators))
    return grids


def _unit(metric: str, table: EvaluationTable) -> str:
    """Return what the figures of a metric are in: the unit of distances, the tolerance of the NSD."""
    return {"hd95": f" ({table.unit})", "nsd": f" at {table.tolerance or 0:g} {table.unit}"}.get(metric, "")


def _with_deviation(summary: Summary) -> str:
    """Return mean ± standard deviation, as far as there are values."""
    return number(summary.mean) if summary.sd is None else f"{number(summary.mean)} ± {number(summary.sd)}"
