"""The tables of the reproduction of UGS-Net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from overread.data.store import open_case
from overread.metrics.calibration import BINS
from overread.metrics.complex_cases import LEAST_CASES, LIMITS, complex_groups, with_honest_interval
from overread.metrics.summary import Summary
from overread.metrics.surface import unit_of
from overread.reproduction.printed import printed_text
from overread.reproduction.results import Findings, RowResult
from overread.reproduction.ugsnet_measures import (
    BY_NAME,
    CONFIDENCES,
    NAME,
    REGIONS,
    drawn_annotations,
    intensity_unit,
    least_annotations,
    pooled_bins,
)
from overread.reproduction.writing import NOT_TRAINED, difference, over_folds, percent
from overread.review.tables import Grid
from overread.review.words import NOTHING

BACKBONE, V1, TWO_LOSSES, FULL = "Attention U-Net", "UGS-Net-V1", "UGS-Phi_a+Phi_b", "UGS-Net"
PRINTED = "LIDC"
"""The paper's only data set; its figures stand beside ours of any other to be read, not to be compared."""
PARTS = {V1: "V1", "UGS-Phi_a": "V1, a", "UGS-Phi_b": "V1, b", TWO_LOSSES: "V1, a, b"} | {
    "UGS-IUCM": "V1, IUCM",
    FULL: "V1, a, b, IUCM",
}
"""What Table II ticks: V1, Phi_a, Phi_b, IUCM."""
MASKED = (FULL, TWO_LOSSES, "UGS-IUCM", "UGS-Phi_b", "UGS-Phi_a", V1)
"""Rows with a Multi-Confidence Mask; where one is shown, the first that is trained."""
PAIRS = (
    *((FULL, other) for other in (BACKBONE, V1, TWO_LOSSES)),
    *((name, V1) for name in (TWO_LOSSES, "UGS-Phi_a", "UGS-Phi_b", "UGS-IUCM")),
    (V1, BACKBONE),
)
BASELINES = ("U-Net", BACKBONE)
"""Of Table III, the first that was read against Label_1, as imported masks are not; print has U-Net's alone."""
NAMES = {"mcm": "MCM", "main": "X_S"}


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Tables I to III, paired differences, and what annotations, confidence, HC and LC say."""
    return (
        table_cases(findings),
        table_models(findings),
        table_folds(findings),
        table_ablations(findings),
        table_differences(findings),
        table_complex(findings),
        table_annotators(findings),
        table_each_annotator(findings),
        table_calibration(findings),
        table_bins(findings),
        table_regions(findings),
    )


def table_cases(findings: Findings) -> Grid:
    """Return how many cases have how many annotations that mark anything, and so whether they have figures.

    The majority of the annotators, which validation curves are against, may mark nothing where some do.
    """
    prepared = findings.prepared
    drawn = {case.id: len(drawn_annotations(prepared, case.id)[0]) for case in prepared.cases}
    empty = Counter(drawn[case.id] for case in prepared.cases if not np.any(open_case(prepared, case).truth))
    least = least_annotations(prepared)
    rows = tuple(
        (str(number), str(cases), str(empty[number]), "yes" if number >= least else "no")
        for number, cases in sorted(Counter(drawn.values()).items())
    )
    columns = ("annotations", "cases", "of them the majority marks nothing", "counted below")
    return Grid("Annotations that mark anything", columns, rows)


def folds_and_cases(result: RowResult, measure: str, factor: float = 1) -> str:
    """Return mean ± population deviation of the means of the folds, as the paper has it, with the cases behind them.

    Shares are in per cent; `factor` 1/100 leaves other measures as they are.
    """
    means = [factor * value for value in result.fold_means(measure)]
    text = over_folds(means, ddof=0)
    return f"{text.removesuffix(')')}, n={len(result.values(measure))})" if means else text


def _of_row(findings: Findings, name: str, measures: Sequence[str]) -> tuple[str, ...]:
    result = findings.results.get(name)
    return tuple(NOT_TRAINED if result is None else folds_and_cases(result, measure) for measure in measures)


def _distance(findings: Findings, name: str) -> str:
    result = findings.results.get(name)
    return NOT_TRAINED if result is None else folds_and_cases(result, "first_hd95", 1 / 100)


def _unit(findings: Findings) -> str:
    """Return the unit of distances; of several in one data set, each case has its own."""
    preprocessing = findings.prepared.preprocessing
    units = {unit_of(case.spacing, preprocessing.spatial_dims) for case in findings.prepared.cases}
    return " or ".join(sorted(units))


def table_models(findings: Findings) -> Grid:
    """Return Table I: all models against Label_1.

    The NSD of the paper's program depends on what else is in a batch, where pixels of the next image count as near. Its
    batches are not known; here it is of every image alone, without such neighbours, and so rather below the printed.
    """
    measures = ("first_dice", "first_jaccard", "first_nsd", "first_nsd_program")
    shown = [row.name for row in findings.rows() if row.name not in PARTS or row.name in (V1, FULL)]
    rows = tuple(
        (
            name,
            *_of_row(findings, name, measures),
            _distance(findings, name),
            *(printed_text(NAME, "I", name, PRINTED, metric) for metric in ("dice", "jaccard", "nsd")),
        )
        for name in shown
    )
    columns = (
        "model",
        "Dice",
        "IoU",
        "NSD of contours, 1 pixel",
        "NSD by the paper's program, single images",
        f"HD95, {_unit(findings)}",
        "Dice, printed",
        "IoU, printed",
        "NSD, printed",
    )
    return Grid("Table I: against Label_1, mean ± deviation of the folds", columns, rows)


def table_folds(findings: Findings) -> Grid:
    """Return the Dice, IoU and NSD of every fold: the middle of Table I."""
    results = [result for row in findings.rows() if (result := findings.results.get(row.name)) is not None]
    measures = ("first_dice", "first_jaccard", "first_nsd")
    most = max((len(result.fold_means(measures[0])) for result in results), default=0)
    rows = []
    for result in results:
        by_fold = list(zip(*(result.fold_means(measure) for measure in measures), strict=True))
        texts = ["/".join(f"{100 * value:.2f}" for value in fold) for fold in by_fold]
        rows.append((result.row, *texts, *[NOTHING] * (most - len(texts))))
    columns = ("model", *(f"fold {number}" for number in range(1, most + 1)))
    return Grid("Table I by fold: Dice/IoU/NSD of contours against Label_1", columns, tuple(rows))


def table_ablations(findings: Findings) -> Grid:
    """Return Table II: the parts of UGS-Net."""
    rows = []
    for name, parts in {BACKBONE: "", **PARTS}.items():
        prints = (printed_text(NAME, "II", name, PRINTED, metric) for metric in ("dice", "jaccard", "nsd"))
        rows.append((name, parts, *_of_row(findings, name, ("first_dice", "first_jaccard", "first_nsd")), *prints))
    columns = ("model", "parts", "Dice", "IoU", "NSD", "Dice, printed", "IoU, printed", "NSD, printed")
    return Grid("Table II: ablations, against Label_1", columns, tuple(rows), left=2)


def table_differences(findings: Findings) -> Grid:
    """Return paired differences between the core rows over the cases of all folds."""
    measures = {
        "first_dice": "Dice, Label_1",
        "first_nsd": "NSD, Label_1",
        "annotator_dice": "Dice, mean of annotators",
        "consensus_dice": "Dice, STAPLE",
        "energy_distance": "energy distance of X_S x 100 (less is better)",
    }
    rows = []
    for name, other in PAIRS:
        mine, theirs = findings.results.get(name), findings.results.get(other)
        if mine is not None and theirs is not None:
            texts = (difference(mine.compared(theirs, measure)) for measure in measures)
            rows.append((f"{name} minus {other}", *texts))
    columns = ("models", *measures.values())
    return Grid("Paired differences, points (95 % interval by group)", columns, tuple(rows))


def table_complex(findings: Findings) -> Grid:
    """Return Table III: the cases that a baseline segments badly."""
    names = BASELINES if findings.baseline is None else (findings.baseline,)
    baseline = next((result for result in findings.trained(names) if result.values("first_dice")), None)
    if baseline is None:
        missing = f"Table III: Complex-Nodule Validation ({' and '.join(names)} not read against Label_1 here)"
        return Grid(missing, ("group", "model"), ())
    groups = complex_groups({case.case: case.values.get("first_dice") for case in baseline.cases})
    rows = []
    for limit in LIMITS:
        for name in dict.fromkeys((baseline.row, *PARTS)):
            if name in findings.results:
                rows.append(_complex_row(findings.results[name], baseline, limit, groups[limit]))
    title = (
        f"Table III: Complex-Nodule Validation by the Dice of {baseline.row} with Label_1 "
        f"(no interval below {LEAST_CASES} cases; the baseline chose its own worst cases)"
    )
    columns = ("group", "model", "n", "Dice", "IoU", f"Dice minus {baseline.row}", "Dice, printed", "IoU, printed")
    return Grid(title, columns, tuple(rows), left=2)


def _complex_row(result: RowResult, baseline: RowResult, limit: float, cases: Collection[str]) -> tuple[str, ...]:
    mine, theirs = (replace(r, cases=tuple(c for c in r.cases if c.case in cases)) for r in (result, baseline))
    group = f"<= {limit:g}"
    gain = with_honest_interval(mine.compared(theirs, "first_dice"))
    ours = (folds_and_cases(mine, measure) for measure in ("first_dice", "first_jaccard"))
    prints = (printed_text(NAME, "III", result.row, group, metric) for metric in ("dice", "jaccard"))
    return group, result.row, str(len(mine.cases)), *ours, _gain(gain, result is baseline), *prints


def _gain(summary: Summary, same: bool) -> str:
    if same or summary.mean is None:
        return NOTHING
    return difference(summary) if summary.low is not None else f"{100 * summary.mean:+.2f} (n={summary.n})"


def table_annotators(findings: Findings) -> Grid:
    """Return how the rows agree with all annotators: beyond the paper."""
    measures = ("annotator_dice", "least_annotator_dice", "consensus_dice", "dice", "annotators_dice")
    rows = []
    for result in findings.trained([row.name for row in findings.rows()]):
        texts = [percent(result.summary(measure)) for measure in measures]
        energies = _energy(result, "energy_distance", 1), _energy(result, "set_energy_distance")
        parts = ("intersection_dice", "union_dice")
        rows.append((result.row, *texts, *energies, *(percent(result.summary(part)) for part in parts)))
    columns = (
        "model",
        "Dice, mean of annotators",
        "Dice, the least of them",
        "Dice, STAPLE",
        "Dice, majority (all cases)",
        "annotators among themselves",
        "energy distance, X_S",
        "energy distance, all readings together",
        "Dice of the intersection",
        "Dice of the union",
    )
    return Grid("All annotators (mean ± sd over cases)", columns, tuple(rows))


def _energy(result: RowResult, measure: str, readings: int | None = None) -> str:
    """Return a mean energy distance with the number of readings it is of; None: as many as the row says."""
    energy = result.summary(measure)
    if energy.mean is None:
        return NOTHING
    number = round(max(result.values("readings"))) if readings is None else readings
    return f"{energy.mean:.3f} ({number} reading{'s' if number > 1 else ''}, n={energy.n})"


def table_each_annotator(findings: Findings) -> Grid:
    """Return the Dice of the rows with each annotator, over the cases in which that one marked something."""
    names = sorted({name for case in findings.prepared.cases for name in case.annotators})
    rows = tuple(
        (result.row, *(percent(result.summary(f"{BY_NAME}{name}")) for name in names))
        for result in findings.trained([row.name for row in findings.rows()])
    )
    return Grid("Dice with each annotator (mean ± sd over cases)", ("model", *names), rows)


def table_calibration(findings: Findings) -> Grid:
    """Return how far confidences are from the share of annotators who mark a pixel."""
    rows = []
    for result in findings.trained([row.name for row in findings.rows()]):
        for kind in CONFIDENCES:
            bins = pooled_bins(result, kind)
            if bins is not None:
                errors = (bins.expected_error(), bins.mean_error())
                texts = (NOTHING if error is None else f"{100 * error:.2f}" for error in errors)
                rows.append((result.row, NAMES[kind], *texts, f"{int(bins.count.sum()):,}"))
    columns = ("model", "confidence", "ECE over pixels, points", "mean over bins, points", "pixels")
    return Grid("Calibration: confidence against the share of annotators", columns, tuple(rows), left=2)


def table_bins(findings: Findings) -> Grid:
    """Return the bins of the Multi-Confidence Mask of UGS-Net, or of another row that is trained."""
    found = ((result.row, pooled_bins(result, "mcm")) for result in findings.trained(MASKED))
    name, bins = next(((name, bins) for name, bins in found if bins is not None), (FULL, None))
    rows = []
    if bins is not None:
        confidence, share = bins.means()
        for place in range(len(bins.count)):
            texts = (f"{values[place]:.3f}" if bins.count[place] else NOTHING for values in (confidence, share))
            rows.append((f"{place / BINS:g} to {(place + 1) / BINS:g}", f"{int(bins.count[place]):,}", *texts))
    columns = ("MCM", "pixels", "mean MCM", "mean share of annotators")
    return Grid(f"Calibration of the MCM of {name}", columns, tuple(rows))


def table_regions(findings: Findings) -> Grid:
    """Return the intensities inside of HC and LC, real against predicted: Figure 8 in figures.

    They are kept where cases have several annotators; elsewhere, and of data prepared without them, there is a dash.
    """
    rows = []
    for result in findings.trained([*PARTS]):
        for region in REGIONS:
            means = [result.summary(f"{region}_{kind}") for kind in ("real", "predicted", "shift")]
            texts = (NOTHING if s.mean is None else f"{s.mean:.3f} (n={s.n})" for s in means)
            rows.append((result.row, region.upper(), *texts))
    columns = ("model", "region", "mean, real", "mean, predicted", "Wasserstein distance of a case")
    title = f"Figure 8 in figures: intensity inside HC and LC, {intensity_unit(findings.prepared)}"
    return Grid(title, columns, tuple(rows), left=2)
