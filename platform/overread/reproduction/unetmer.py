"""U-Netmer (He et al. 2023): Tables I-III and Figures 1d, 5-12 for one data set.

The paper trains every model for 100 epochs of batch 16 by Adam at 1e-4, halved every 20 epochs, without augmentation,
and reports B_1 (the reading at scale 1) on one random split. `small` keeps split, schedule, loss and measures and makes
the rest fit two CPU cores: a quarter of the width, 128 pixels, a fixed number of steps at a higher rate.
"Trans U-Net" of the paper's tables is U-Netmer <1>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from overread.metrics.rates import RATES
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import (
    CROSS_ENTROPY,
    HALVING,
    NO_AUGMENTATION,
    PAPERS,
    Paper,
    Protocol,
    Row,
    Size,
)
from overread.reproduction.printed import paper_dataset, printed_text
from overread.reproduction.results import Findings, RowResult, spread
from overread.reproduction.writing import NOT_TRAINED, difference, percent
from overread.review import figures
from overread.review.tables import Grid
from overread.review.words import number

NAME = "unetmer"
DATASETS = {"busi": "BUID", "acdc": "ACDC", "task07": "Pancreas", "brats": "BraTS", "kvasir": "Kvasir"}
"""Part of a data set's name (in lower case) to the paper's name of it."""
SETS: tuple[tuple[int, ...], ...] = ((1,), (2,), (4,), (8,), (1, 2), (1, 2, 4), (1, 2, 4, 8))
BACKBONES = {"U-Netmer": "unet", "Attention U-Netmer": "attention_unet", "U-Netmer++": "unet_plus_plus"}
CORE = ("U-Netmer <1>", "U-Netmer <2>", "U-Netmer <4>", "U-Netmer <1|2>", "U-Netmer <1|2|4>")
JOINT = "U-Netmer <1|2|4>"
"""The row whose readings give the paper's confidence scores."""
SCORES = ("c_12", "c_14", "c_24", "sa_mean")
WITH_SA = ("U-Net", JOINT)
"""Rows of Fig. 8."""


def named(family: str, scales: Sequence[int], transformer: bool = True) -> str:
    """Return the name of a row, such as `U-Netmer <1|2>`."""
    return f"{family} <{'|'.join(map(str, scales))}>" + ("" if transformer else " without T")


def _rows() -> tuple[Row, ...]:
    rows = [
        Row(name="U-Net", architecture="unet", core=True),
        Row(name="Attention U-Net", architecture="attention_unet"),
        Row(name="U-Net++", architecture="unet_plus_plus"),
    ]
    for family, backbone in BACKBONES.items():
        for scales in SETS:
            name = named(family, scales)
            options = {"scales": list(scales), "backbone": backbone}
            rows.append(Row(name=name, architecture="unetmer", options=options, core=name in CORE))
        for scale in (1, 2, 4, 8):
            alone = {"scales": [scale], "backbone": backbone, "use_transformer": False}
            rows.append(Row(name=named(family, [scale], False), architecture="unetmer", options=alone))
    return (
        *rows,
        Row(name="BiOnet", architecture="bio_net"),
        Row(name="ConvUNeXt", architecture="conv_unext"),
        Row(name="ResUnet", architecture="res_unet"),
        Row(name="UNext", architecture="unext"),
        Row(name="UCTransNet", architecture="uctransnet"),
        Row(name="MedT", architecture="medt", least_width=16),
    )


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
    ),
    "small": Protocol(
        max_side=128,
        width=0.25,
        steps=1200,
        batch_size=8,
        optimiser=replace(HALVING, learning_rate=2e-3),
        augment=NO_AUGMENTATION,
        losses=CROSS_ENTROPY,
        validations=6,
        merge_labels=True,
    ),
}


def measure(case: TestCase) -> dict[str, float | None]:
    """Return C_ij and the Dice of every scale, and for the rows of Fig. 8 the SA score of every layer."""
    values = case.relation_scores()
    return values | (segmentation_ability(case) if case.row in WITH_SA else {})


def segmentation_ability(case: TestCase) -> dict[str, float | None]:
    """Return `sa_<nn>_<layer>` against the truth, and `sa_mean` (last two layers) against the network's own mask."""
    import numpy as np

    from overread.data.preprocess import to_prepared_mask
    from overread.ensemble import features

    truth = to_prepared_mask(case.truth, case.prepared.preprocessing)
    given = (case.segmenter, case.image, case.config, case.device)
    layers = features.segmentation_ability(*given, reference=np.asarray(truth))
    values: dict[str, float | None] = {f"sa_{i:02d}_{layer}": score for i, (layer, score) in enumerate(layers)}
    return values | {"sa_mean": features.mean_sa(*given)}


# ---------------------------------------------------------------- tables


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Tables I, II and III, the comparison of scale sets, and how each score follows the Dice."""
    dataset = paper_dataset(DATASETS, findings.dataset)
    return (
        _table_scales(findings, dataset),
        _table_metrics(findings, dataset),
        _table_models(findings, dataset),
        _table_joint(findings),
        _table_scores(findings),
    )


def _dice(result: RowResult | None) -> tuple[str, str]:
    """Return Dice of all cases and of those with foreground."""
    if result is None:
        return NOT_TRAINED, NOT_TRAINED
    return percent(result.summary("dice")), percent(result.summary("dice", foreground_only=True))


def _table_scales(findings: Findings, dataset: str | None) -> Grid:
    rows = []
    for family in BACKBONES:
        for scales in SETS:
            name = named(family, scales)
            theirs = printed_text(NAME, "I", name, dataset, "dice")
            rows.append((name, *_dice(findings.results.get(name)), theirs))
    columns = ("model", "Dice, ours", "Dice, ours, cases with foreground", "Dice, printed")
    return Grid("Table I: Dice of B_1 by scale set", columns, tuple(rows))


def _table_metrics(findings: Findings, dataset: str | None) -> Grid:
    rows = []
    metrics = [rate for rate in RATES if rate != "precision"]
    models = [("U-Net", "U-Net"), ("Attention U-Net", "Attention U-Net"), ("U-Net++", "U-Net++")]
    models += [("U-Netmer <1>", "Trans U-Net")]
    models += [(named(family, scales), family) for family in BACKBONES for scales in ((1, 2), (1, 2, 4))]
    for name, theirs in models:
        result = findings.results.get(name)
        ours = [NOT_TRAINED if result is None else percent(result.summary(metric)) for metric in metrics]
        rows.append((name, "ours", *ours))
        prints = [printed_text(NAME, "II", theirs, dataset, metric) for metric in metrics]
        rows.append((name, f"printed ({theirs}, best S)" if "mer" in theirs else "printed", *prints))
    return Grid("Table II: all metrics", ("model", "source", *metrics), tuple(rows), left=2)


def _table_models(findings: Findings, dataset: str | None) -> Grid:
    rows = []
    pairs = [(row.name, row.name) for row in findings.rows() if "mer" not in row.name]
    pairs.insert(-1, ("U-Netmer <1>", "Trans U-Net"))
    pairs += [(named(family, (1, 2)), family) for family in BACKBONES]
    for name, theirs in pairs:
        shown = theirs if name == theirs else f"{theirs} ({name})"
        rows.append((shown, *_dice(findings.results.get(name)), printed_text(NAME, "III", theirs, dataset, "dice")))
    columns = ("model", "Dice, ours", "Dice, ours, cases with foreground", "Dice, printed (best S)")
    return Grid("Table III: Dice against other models", columns, tuple(rows))


def _table_joint(findings: Findings) -> Grid:
    rows = []
    joint = findings.results.get(JOINT)
    for other in ("U-Net", "U-Netmer <1>", "U-Netmer <2>", "U-Netmer <4>", "U-Netmer <1|2>"):
        result = findings.results.get(other)
        if joint is not None and result is not None:
            rows.append((f"{JOINT} minus {other}", "B_1", difference(joint.compared(result))))
    for scale in (2, 4):
        single = findings.results.get(f"U-Netmer <{scale}>")
        if joint is not None and single is not None:
            relabelled = joint.with_dice(f"dice_scale_{scale}")
            rows.append((f"{JOINT} minus U-Netmer <{scale}>", f"B_{scale}", difference(relabelled.compared(single))))
    columns = ("paired difference of Dice, points", "joint reading", "mean (95 % interval by group)")
    return Grid("Joint training against single scales", columns, tuple(rows), left=2)


def _table_scores(findings: Findings) -> Grid:
    from overread.confidence.coverage import correlation

    joint, rows = findings.results.get(JOINT), []
    if joint is not None:
        for score in SCORES:
            for group, chosen in (("all", joint.cases), ("with foreground", _foreground(joint))):
                dice = [c.dice for c in chosen]
                found = correlation([c.values.get(score) for c in chosen], dice)
                texts = [number(v) for v in (found.pearson, found.spearman)]
                rows.append((score, group, *texts, str(found.n)))
    columns = ("score", "cases", "Pearson r with Dice of B_1", "Spearman", "n")
    return Grid(f"Figure 10 in figures: confidence of {JOINT}", columns, tuple(rows), left=2)


def _foreground(result: RowResult) -> list[Any]:
    return [case for case in result.cases if case.has_foreground]


# ---------------------------------------------------------------- figures


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the paper's figures as far as their rows are trained; return those written."""
    makers = (
        _best_scale,
        _without_transformer,
        _scale_sets,
        _ability,
        _examples,
        _scatter,
        _coverage,
        _doubtful,
    )
    return tuple(path for maker in makers if (path := maker(findings, folder)) is not None)


def _best_scale(findings: Findings, folder: Path) -> Path | None:
    """Fig. 1d: for how many test images each single scale is the best."""
    singles = {s: findings.results[f"U-Netmer <{s}>"] for s in (1, 2, 4, 8) if f"U-Netmer <{s}>" in findings.results}
    if len(singles) < 2:
        return None
    table = {s: {c.case: c.dice for c in _foreground(r)} for s, r in singles.items()}
    cases = set.intersection(*(set(values) for values in table.values()))
    wins = dict.fromkeys(table, 0)
    for case in cases:
        wins[max(table, key=lambda s: table[s][case])] += 1
    path = folder / "fig01d-best-scale.png"
    with figures.drawing(path) as axes:
        shares = [100 * wins[s] / len(cases) for s in table]
        title = f"Fig. 1d: best single scale per test image (n = {len(cases)} with foreground)"
        figures.grouped_bars(axes, [f"s = {s}" for s in table], {"share": shares}, title, "% of the images")
    return path


def _without_transformer(findings: Findings, folder: Path) -> Path | None:
    """Fig. 5: single scales with and without the Transformer."""
    rows = {
        label: [_mean(findings, named("U-Netmer", [s], transformer)) for s in (1, 2, 4, 8)]
        for label, transformer in (("with T", True), ("without T", False))
    }
    if not any(value is not None for values in rows.values() for value in values):
        return None
    path = folder / "fig05-transformer.png"
    with figures.drawing(path) as axes:
        title = "Fig. 5: single scales with and without Transformer (gaps: not trained here)"
        figures.grouped_bars(axes, ["<1>", "<2>", "<4>", "<8>"], rows, title, "mean Dice")
    return path


def _scale_sets(findings: Findings, folder: Path) -> Path | None:
    """Figs. 6 and 7: Dice by scale set for the three backbones."""
    labels = [named("", scales).strip() for scales in SETS]
    rows = {family: [_mean(findings, named(family, scales)) for scales in SETS] for family in BACKBONES}
    if not any(value is not None for values in rows.values() for value in values):
        return None
    path = folder / "fig06-07-scale-sets.png"
    with figures.drawing(path, width=8) as axes:
        title = "Figs. 6, 7: scale sets on three backbones (gaps: not trained here)"
        figures.grouped_bars(axes, labels, rows, title, "mean Dice")
    return path


def _ability(findings: Findings, folder: Path) -> Path | None:
    """Fig. 8: segmentation ability by layer."""
    series = {}
    for name in WITH_SA:
        if name in findings.results:
            result = findings.results[name]
            layers = [key for key in result.cases[0].values if key.startswith("sa_") and key != "sa_mean"]
            means = [result.summary(layer, foreground_only=True).mean for layer in layers]
            series[name] = [(float(i), m) for i, m in enumerate(means) if m is not None]
    if not any(series.values()):
        return None
    path = folder / "fig08-segmentation-ability.png"
    with figures.drawing(path) as axes:
        figures.lines(axes, series, "Fig. 8: segmentation ability by layer", "layer (0: input)", "mean SA score")
    return path


def _scatter(findings: Findings, folder: Path) -> Path | None:
    """Fig. 10: Dice over each confidence."""
    joint = findings.results.get(JOINT)
    if joint is None:
        return None
    dice = [case.dice for case in joint.cases]
    path = folder / "fig10-confidence.png"
    with figures.drawing(path, 3.4, 3.2, len(SCORES)) as axes:
        for ax, score in zip(axes[0], SCORES, strict=True):
            figures.dice_scatter(ax, score, [case.values.get(score) for case in joint.cases], dice)
    return path


def _coverage(findings: Findings, folder: Path) -> Path | None:
    """Fig. 11: mean Dice of the most confident cases."""
    joint = findings.results.get(JOINT)
    if joint is None:
        return None
    dice = [case.dice for case in joint.cases]
    scores = {score: [case.values.get(score) for case in joint.cases] for score in SCORES}
    path = folder / "fig11-coverage.png"
    with figures.drawing(path) as axes:
        figures.coverage_lines(axes, scores, dice, f"Fig. 11: coverage curves of {JOINT} (n = {len(dice)})")
    return path


def _examples(findings: Findings, folder: Path) -> Path | None:
    """Fig. 9: test cases from easy to hard, with truth and the masks of two models."""
    names = ("U-Net", JOINT)
    if not findings.tested(*names):
        return None
    ranked = sorted(_foreground(findings.results[JOINT]), key=lambda c: c.dice)
    panels = [figures.Contoured(c.case, *findings.shown_masks(c.case, names)) for c in spread(ranked)]
    return figures.contoured(folder / "fig09-examples.png", panels)


def _doubtful(findings: Findings, folder: Path) -> Path | None:
    """Fig. 12: the most and the least confident cases by C_12, with B_1 and B_2."""
    joint = findings.results.get(JOINT)
    if joint is None or not findings.tested(JOINT):
        return None
    ranked = sorted((c for c in _foreground(joint) if c.values.get("c_12") is not None), key=lambda c: c.values["c_12"])
    panels = []
    for result in ranked if len(ranked) < 8 else [*ranked[:4], *ranked[-4:]]:
        image, (place, truth) = findings.shown_slice(result.case)
        readings = dict(findings.opened(JOINT, result.case).alternatives())
        masks = {"truth": truth}
        for scale in (1, 2):
            mask = readings[f"scale_{scale}"].argmax(0) > 0
            masks[f"B_{scale}"] = findings.slice_of(mask, place)
        panels.append(figures.Contoured(f"{result.case}: C_12 = {result.values['c_12']:.2f}", image, masks))
    return figures.contoured(folder / "fig12-least-and-most-confident.png", panels)


def _mean(findings: Findings, name: str) -> float | None:
    result = findings.results.get(name)
    return None if result is None else result.summary("dice").mean


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="U-Netmer (He et al. 2023)",
        rows=_rows(),
        protocols=PROTOCOLS,
        measure=measure,
        exhibits=exhibits,
        pictures=pictures,
    ),
)
