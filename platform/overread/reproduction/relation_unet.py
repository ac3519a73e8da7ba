"""Relation U-Net (He, Bao, Grant, Ou 2025): Tables 1 and 2, Figures 4 and 5 for one data set.

The paper trains 100 epochs by Adam at 1e-4, halved every 20 epochs, without augmentation, tests by 5-fold
cross-validation, and gives mean ± sd over folds of the Dice by volume, all structures merged. `small` keeps loss,
schedule, folds and the 64 pixels of the hippocampus, and makes the rest fit two CPU cores: a quarter of the width, a
fixed number of steps at a higher rate, and 20 anchors per case instead of 200 (each is a full pass of the network).
A network of a quarter of the width learns two images at once slowly: on one fold of another split it was 0.012
below the U-Net after 2,400 steps and 0.004 after 4,800, which all rows therefore have.
Dropout is read with the paper's 200 passes; its validations, which choose nothing, take 20.
The paper names one of its "three other methods" of Figure 4; the others here are the mean SA score of U-Netmer (same
group) and the predictive entropy. Each confidence is correlated with the Dice of the network that it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import (
    CROSS_ENTROPY,
    HALVING,
    NO_AUGMENTATION,
    PAPERS,
    PRINTED,
    Paper,
    Protocol,
    Row,
    Size,
)
from overread.reproduction.printed import paper_dataset, printed_text
from overread.reproduction.results import Findings, RowResult
from overread.reproduction.writing import NOT_TRAINED, difference, over_folds, percent
from overread.review import figures
from overread.review.tables import Grid
from overread.review.words import NOTHING, between, number

NAME = "relation_unet"
PLAIN, DROPOUT, RELATION = "U-Net", "Dropout", "Relation U-Net"
DATASETS = {"lits": "LiTS", "hippocampus": "Hippocampus", "brats": "BraTS", "isic": "ISIC"}
"""Part of a data set's name (in lower case) to the paper's name of it."""
PASSES = 20
"""Dropout passes of a validation."""


@dataclass(frozen=True)
class Reading:
    """A mask that a row of Tables 1 and 2 is about."""

    title: str
    row: str
    measure: str
    printed: Mapping[str, str | None]
    """Table -> the paper's name in it; None: it stands there, but is not printed."""


READINGS = (
    Reading("U-Net", PLAIN, "dice", {"1": "U-Net", "2": "U-Net"}),
    Reading("s1, x1 = x2", RELATION, "dice_s1", {"1": "s1"}),
    Reading("s2, x1 = x2", RELATION, "dice_s2", {"1": "s2"}),
    Reading("U-Net with dropout, mean of 200 passes", DROPOUT, "dice", {"2": "Dropout"}),
    Reading("(s1 + s2) / 2, x1 = x2", RELATION, "dice", {"1": "mean", "2": "mean"}),
    Reading("r^p, x1 = x2", RELATION, "dice_possible", {"1": "possible"}),
    Reading("r^c, x1 = x2", RELATION, "dice_consensus", {"1": "consensus"}),
    Reading("s1, x2 in Train", RELATION, "dice_train", {"2": "train"}),
    Reading("s1, x2 in Test", RELATION, "dice_test", {"2": "test"}),
    Reading("s1, x2 in Train, mean of single Dice", RELATION, "single_dice_train", {"2": None}),
    Reading("s1, x2 in Test, mean of single Dice", RELATION, "single_dice_test", {"2": None}),
)


@dataclass(frozen=True)
class Confidence:
    """A score of Figure 4, and the network whose Dice it should follow."""

    title: str
    row: str
    measure: str


CONFIDENCES = (
    Confidence("C (Relation U-Net)", RELATION, "relation_unet_c"),
    Confidence("MC dropout", DROPOUT, "mc_dropout_c"),
    Confidence("mean SA (U-Net)", PLAIN, "sa_mean"),
    Confidence("entropy (U-Net)", PLAIN, "entropy"),
    Confidence("mean SA (Relation U-Net)", RELATION, "sa_mean"),
    Confidence("entropy (Relation U-Net)", RELATION, "entropy"),
    Confidence("entropy (Dropout)", DROPOUT, "entropy"),
)
FIGURE = CONFIDENCES[:4]
"""The proposed score and the three others, each of its own network."""
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=256,
        width=1.0,
        passes=100,
        batch_size=16,
        optimiser=HALVING,
        augment=NO_AUGMENTATION,
        losses=CROSS_ENTROPY,
        merge_labels=True,
        folds=5,
        cross_validated=True,
    ),
    "small": Protocol(
        max_side=64,
        width=0.25,
        steps=4800,
        batch_size=16,
        optimiser=replace(HALVING, learning_rate=2e-3),
        augment=NO_AUGMENTATION,
        losses=CROSS_ENTROPY,
        validations=6,
        merge_labels=True,
        folds=5,
        cross_validated=True,
        anchors=20,
    ),
}


ABOUT = (
    f"`small` differs from the paper in the width, the number of steps, the learning rate (the paper's is "
    f"{HALVING.learning_rate:g}) and the second images: {PROTOCOLS['small'].anchors} per case in place of the paper's "
    f"{PROTOCOLS['paper'].anchors}, each a slice of another case. Its number of steps was chosen after pilots on one "
    "fold of another split, in which Relation U-Net was 0.012 of Dice below U-Net after 2,400 steps and 0.004 after "
    "4,800: a choice for Relation U-Net, which all rows then had. In both sizes the two images of a pair come from two "
    "independent orders of the cases, a slice of each, and half of a batch is drawn from slices with foreground; the "
    f"paper draws both images evenly. {PRINTED}"
)
"""What makes our figures differ from the printed."""


def _rows() -> tuple[Row, ...]:
    passes = {"passes": PASSES}
    return (
        Row(name=PLAIN, architecture="unet", core=True),
        Row(name=DROPOUT, architecture="mc_dropout", core=True, options=passes, read_options={"passes": 200}),
        Row(name=RELATION, architecture="relation_unet", core=True),
        Row(
            name="Relation U-Netmer <1>",
            architecture="relation_unet",
            options={"backbone": "unetmer", "backbone_options": {"scales": [1]}},
        ),
        Row(name="Relation UNet#", architecture="relation_unet", options={"backbone": "unet_sharp"}),
    )


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the Dice of every reading, and every confidence that the row's network has."""
    from overread.confidence.entropy import negative_entropy
    from overread.ensemble import features

    values: dict[str, float | None] = {"entropy": negative_entropy(case.probabilities())}
    if case.row == DROPOUT:
        return values | case.relation_scores()
    values["sa_mean"] = features.mean_sa(case.segmenter, case.image, case.config, case.device)
    if case.segmenter.relation_sets():
        values |= case.relation_scores()
        fold = case.prepared.splits.fold(case.config.fold)
        for name, others in (("train", fold.train), ("test", fold.validation)):
            values |= read_with_anchors(case, name, others)
    return values


def read_with_anchors(case: TestCase, name: str, others: Sequence[str]) -> dict[str, float | None]:
    """Return the Dice of the mean probability over the anchors, and the mean of the single Dice.

    Where there is no other case, as in a fold of one, there is neither.
    """
    import numpy as np

    others = [other for other in others if other != case.case_id]
    if not others:
        return {f"dice_{name}": None, f"single_dice_{name}": None}
    total: float | np.ndarray = 0.0
    single = []
    for _, probabilities in case.alternatives(case.anchors(others)):
        total = total + probabilities
        single.append(case.rates(probabilities.argmax(0).astype(np.uint8))["dice"])
    dice = case.rates(np.asarray(total).argmax(0).astype(np.uint8))["dice"]
    defined = [value for value in single if value is not None]
    return {f"dice_{name}": dice, f"single_dice_{name}": sum(defined) / len(defined) if defined else None}


# ---------------------------------------------------------------- tables


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Tables 1 and 2, paired differences by volume, and how each confidence follows the Dice."""
    return (
        _table(findings, "Table 1: Dice of the readings of (x, x)", "1"),
        _table(findings, "Table 2: Dice with other second images", "2"),
        _differences(findings),
        _table_of_confidences(findings),
        _table_of_pearson_differences(findings),
    )


def _table(findings: Findings, title: str, table: str) -> Grid:
    dataset = paper_dataset(DATASETS, findings.dataset)
    rows = []
    for reading in (reading for reading in READINGS if table in reading.printed):
        result = findings.results.get(reading.row)
        ours = (NOT_TRAINED, NOT_TRAINED)
        if result is not None:
            ours = (over_folds(result.fold_means(reading.measure)), percent(result.summary(reading.measure)))
        theirs = reading.printed[table]
        rows.append((reading.title, *ours, printed_text(NAME, table, theirs, dataset, "dice") if theirs else NOTHING))
    for row in findings.rows():
        if table == "1" and row.name not in (PLAIN, DROPOUT, RELATION):
            result = findings.results.get(row.name)
            own = (NOT_TRAINED, NOT_TRAINED)
            if result is not None:
                own = (over_folds(result.fold_means("dice")), percent(result.summary("dice")))
            rows.append((f"{row.name}, (s1 + s2) / 2, x1 = x2", *own, NOTHING))
    return Grid(title, ("reading", "mean ± sd over folds, ours", "by volume, ours", "printed"), tuple(rows))


def _differences(findings: Findings) -> Grid:
    rows = []
    plain = findings.results.get(PLAIN)
    for reading in READINGS[1:]:
        result = findings.results.get(reading.row)
        if plain is not None and result is not None:
            found = result.with_dice(reading.measure).compared(plain)
            rows.append((f"{reading.title} minus U-Net", difference(found)))
    title = "Paired differences of Dice by volume, points"
    return Grid(title, ("readings", "mean (95 % interval by group)"), tuple(rows))


def fold_correlations(result: RowResult, measure: str) -> list[float]:
    """Return Pearson's r of a confidence with the row's Dice in each fold where it is defined."""
    from overread.confidence.coverage import correlation

    found = []
    for cases in result.by_fold():
        r = correlation([c.values.get(measure) for c in cases], [c.dice for c in cases]).pearson
        if r is not None:
            found.append(r)
    return found


def shared_cases(findings: Findings) -> list[dict[str, tuple[float, float, str]]]:
    """Return, for each case that has all of the shown scores, by title (score, Dice, group).

    Correlations are compared on the same cases: a score that passes over hard ones would look better.
    """
    shown = _shown(findings)
    by_case: dict[str, dict[str, tuple[float, float, str]]] = {}
    for score, result in shown:
        for case in result.cases:
            value = case.values.get(score.measure)
            if value is not None:
                own = (value, case.dice, case.group)
                by_case.setdefault(case.case, {})[score.title] = own
    return [found for found in by_case.values() if len(found) == len(shown)]


def _table_of_confidences(findings: Findings) -> Grid:
    from overread.confidence.coverage import correlation

    rows = []
    for confidence in CONFIDENCES:
        result = findings.results.get(confidence.row)
        if result is None:
            rows.append((confidence.title, NOT_TRAINED, *[NOTHING] * 3))
            continue
        dice = [case.dice for case in result.cases]
        pooled = correlation([case.values.get(confidence.measure) for case in result.cases], dice)
        texts = [number(v) for v in (pooled.pearson, pooled.spearman)]
        folds = fold_correlations(result, confidence.measure)
        rows.append((confidence.title, _mean_sd(folds), *texts, str(pooled.n)))
    columns = ("confidence", "Pearson r, mean ± sd over folds", "Pearson r, all cases", "Spearman, all cases", "n")
    return Grid("Figure 4 in figures: correlation of confidence and Dice", columns, tuple(rows))


def _table_of_pearson_differences(findings: Findings) -> Grid:
    """Return how much better C follows the Dice than each other score, on the cases that have all of them."""
    from overread.confidence.failure_detection import pearson_difference

    cases, (first, *others) = shared_cases(findings), FIGURE
    rows = []
    if cases and first.title in cases[0]:
        mine = [case[first.title][:2] for case in cases]
        groups = [case[first.title][2] for case in cases]
        for other in others:
            if other.title in cases[0]:
                theirs = [case[other.title][:2] for case in cases]
                found = pearson_difference(mine, theirs, groups=groups)
                text = NOTHING
                if found.value is not None and found.low is not None and found.high is not None:
                    text = f"{found.value:+.3f} ({between(found.low, found.high, '+.3f')}, n={len(cases)})"
                rows.append((f"{first.title} minus {other.title}", text))
    columns = ("difference of Pearson r", "all folds (95 % interval by group)")
    return Grid("Is C the better confidence? Cases that have all scores", columns, tuple(rows))


def _mean_sd(values: Sequence[float]) -> str:
    import numpy as np

    if not values:
        return NOTHING
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)} folds)"


# ---------------------------------------------------------------- figures


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write Figures 4 and 5 and examples as far as their rows are trained; return those written."""
    makers: tuple[Callable[[Findings, Path], Path | None], ...] = (_scatter, _pearson, _coverage, _examples)
    return tuple(path for maker in makers if (path := maker(findings, folder)) is not None)


def _shown(findings: Findings) -> list[tuple[Confidence, RowResult]]:
    return [(score, findings.results[score.row]) for score in FIGURE if score.row in findings.results]


def _scatter(findings: Findings, folder: Path) -> Path | None:
    """Fig. 4 (b): Dice over each confidence, all folds."""
    shown = _shown(findings)
    if not shown:
        return None
    path = folder / "fig04b-confidence.png"
    with figures.drawing(path, 3.4, 3.2, len(shown)) as axes:
        for ax, (score, result) in zip(axes[0], shown, strict=True):
            dice = [case.dice for case in result.cases]
            figures.dice_scatter(ax, score.title, [case.values.get(score.measure) for case in result.cases], dice)
    return path


def _pearson(findings: Findings, folder: Path) -> Path | None:
    """Fig. 4 (a): Pearson's r of each confidence, mean over folds."""
    means = mean_correlations(findings)
    if not means:
        return None
    path = folder / "fig04a-pearson.png"
    with figures.drawing(path, width=7) as axes:
        title = "Fig. 4a: Pearson r with the Dice, mean over folds"
        figures.grouped_bars(axes, list(means), {"r": list(means.values())}, title, "Pearson r")
    return path


def mean_correlations(findings: Findings) -> dict[str, float]:
    """Return by confidence the mean of Pearson's r over the folds in which it is defined."""
    shown = [(score, fold_correlations(result, score.measure)) for score, result in _shown(findings)]
    return {score.title: sum(found) / len(found) for score, found in shown if found}


def coverage_series(findings: Findings) -> dict[str, list[tuple[float, float]]]:
    """Return by confidence (d, mean Dice of the d % most confident cases of a fold, averaged over the folds)."""
    from overread.confidence.coverage import SHARES, coverage_curve

    series = {}
    for score, result in _shown(findings):
        curves = [
            coverage_curve([c.values.get(score.measure) for c in fold], [c.dice for c in fold])
            for fold in result.by_fold()
        ]
        points = zip(SHARES, zip(*curves, strict=True), strict=True)
        series[score.title] = [(float(d), sum(p.dice for p in at) / len(at)) for d, at in points]
    return series


def _coverage(findings: Findings, folder: Path) -> Path | None:
    """Fig. 5: mean Dice of the most confident cases, averaged over folds."""
    series = coverage_series(findings)
    if not series:
        return None
    path = folder / "fig05-coverage.png"
    with figures.drawing(path) as axes:
        figures.lines(axes, series, "Fig. 5: coverage, mean over folds", "most confident cases kept, %", "mean Dice")
    return path


def _examples(findings: Findings, folder: Path) -> Path | None:
    """The least and the most confident cases by C, with truth, Possible and Consensus."""
    if not findings.tested(RELATION):
        return None
    return figures.contoured(folder / "least-and-most-confident.png", example_panels(findings))


def example_panels(findings: Findings) -> list[figures.Contoured]:
    """Return the four least and the four most confident cases by C, or all of fewer, the least first."""
    cases = [c for c in findings.results[RELATION].cases if c.values.get("relation_unet_c") is not None]
    ranked = sorted(cases, key=lambda c: c.values["relation_unet_c"] or 0.0)
    panels = []
    for measures in ranked if len(ranked) < 8 else [*ranked[:4], *ranked[-4:]]:
        image, (place, truth) = findings.shown_slice(measures.case)
        readings = dict(findings.opened(RELATION, measures.case).alternatives())
        masks = {"truth": truth} | {
            title: findings.slice_of(readings[name].argmax(0) > 0, place)
            for title, name in (("Possible", "possible"), ("Consensus", "consensus"))
        }
        panels.append(figures.Contoured(f"{measures.case}: C = {measures.values['relation_unet_c']:.2f}", image, masks))
    return panels


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="Relation U-Net (He et al. 2025)",
        rows=_rows(),
        protocols=PROTOCOLS,
        measure=measure,
        exhibits=exhibits,
        pictures=pictures,
        about=ABOUT,
    ),
)
