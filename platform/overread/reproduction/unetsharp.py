"""UNet# (Qian et al. 2022), 2-D: Table 1 left, Table 2 (backbones), Table 3, Figures 5-7 for one data set.

The paper trains every model for 100 epochs of batch 128 by Adam at 1e-3 (cosine), with flips, rotations and changes of
intensity, and reports IoU. `small` keeps loss, optimiser, schedule and the 96 pixels of the nuclei set, and makes the
rest fit two CPU cores: half of the width, a fixed number of smaller steps. Published IoU is that of all pixels of a
batch together; ours is given per image (mean, sd) and of all pixels of the test split ("pooled"), and Dice also in the
paper's soft form (2 sum p y) / (sum p^2 + sum y^2), which may be below the IoU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from overread.architectures.unet_sharp import UNetSharpSegmenter
from overread.records import MAIN, AugmentConfig, OptimiserConfig
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import PAPERS, Paper, Protocol, Row, Size
from overread.reproduction.printed import paper_dataset, printed_text
from overread.reproduction.results import Findings, RowResult, spread
from overread.reproduction.writing import NOT_TRAINED, difference, percent
from overread.review import figures
from overread.review.tables import Grid
from overread.review.words import NOTHING

if TYPE_CHECKING:
    from overread.ensemble.pruning import LevelCost

NAME = "unetsharp"
DATASETS = {"dsb": "Dsb2018", "brats": "BraTs19", "lits": "Lits17", "lidc": "LIDC", "luna": "Luna16"}
"""Part of a data set's name (in lower case) to the paper's name of it."""
DEEP: Mapping[str, Any] = {"deep_supervision": True}
WIRINGS = {"UNet": "plain", "WUNet": "plain", "UNet2+": "nested", "UNet3+": "full_scale", "UNet#": "sharp"}
SUPERVISED = ("UNet2+", "UNet3+", "UNet#")
"""Models with and without deep supervision."""
SHARP, SHARP_DEEP, GUIDED = "UNet#", "UNet# DS", "UNet# CGM"
UNGATED = "ungated_"
"""Start of the name of what is measured of a guided network with its gates open."""
ENCODERS = {"VGG16": "vgg16", "R101": "resnet101"}
LEVELS = (1, 2, 3, 4)
COMPARATORS = {
    "PSPNet": "pspnet",
    "DeepLabV3+": "deeplab_v3_plus",
    "ENet": "enet",
    "nnU-Net": None,
    "AttnUNet": "attention_unet",
    "DUNet": "dunet",
    "RA-UNet": "ra_unet",
    "TransUNet": "transunet",
}
"""Models of Table 3 by printed name; nnU-Net is another tool, whose masks can be imported."""


CORE = tuple(name for name in WIRINGS if not name.startswith("W")) + tuple(f"{name} DS" for name in SUPERVISED)


def grid_rows(
    wirings: Mapping[str, str], supervised: tuple[str, ...], options: Mapping[str, Any], core: tuple[str, ...]
) -> tuple[Row, ...]:
    """Return the rows of Table 1, each model and then itself with deep supervision."""
    rows = []
    for name, wiring in wirings.items():
        own = {"wiring": wiring} | dict(options)
        if name.startswith("W"):
            own["width"] = {32: 35, 16: 18}[own.get("width", 32)]
        made = {name: own} | ({f"{name} DS": own | dict(DEEP)} if name in supervised else {})
        rows += [Row(name=n, architecture="unet_sharp", options=o, core=n in core) for n, o in made.items()]
    return tuple(rows)


def _rows() -> tuple[Row, ...]:
    backbones = [
        Row(name=f"{name} {label}", architecture="unet_sharp", options={"wiring": WIRINGS[name], "encoder": encoder})
        for name in ("UNet", "UNet#")
        for label, encoder in ENCODERS.items()
    ]
    return (
        *grid_rows(WIRINGS, SUPERVISED, {}, CORE),
        Row(name="UNet# direct", architecture="unet_sharp", options={"connection": "direct"}),
        Row(name=GUIDED, architecture="unet_sharp", options=dict(DEEP) | {"guidance": True}),
        *backbones,
        *(Row(name=name, architecture=architecture, least_width=8) for name, architecture in COMPARATORS.items()),
    )


TRAINING = OptimiserConfig(name="adam", learning_rate=1e-3, weight_decay=1e-4, schedule="cosine")
AUGMENTATION = AugmentConfig(flip=True, rotate_degrees=15.0, scale=0.0, intensity=0.1)
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=96,
        width=1.0,
        passes=100,
        batch_size=128,
        optimiser=TRAINING,
        augment=AUGMENTATION,
        merge_labels=True,
    ),
    "small": Protocol(
        max_side=96,
        width=0.5,
        steps=1200,
        batch_size=8,
        optimiser=TRAINING,
        augment=AUGMENTATION,
        validations=6,
        merge_labels=True,
    ),
}


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the sums of the soft Dice, IoU and counts of each trained level, and those without the gates."""
    probabilities = case.probabilities()
    p, y = 1 - probabilities[0], (case.truth > 0).astype(np.float32)
    values: dict[str, float | None] = {
        "soft_overlap": float((p * y).sum()),
        "soft_total": float((p * p).sum() + (y * y).sum()),
    }
    levels = {variant.name for variant in case.segmenter.variants() if "level" in variant.options}
    for name, read in case.alternatives() if levels else ():  # one pass: a level reads alone what its head reads here
        if name in levels:
            mask = read.argmax(0).astype(np.uint8)
            values[f"{name}_jaccard"] = case.rates(mask)["jaccard"]
            values |= case.counts(mask, f"{name}_")
    return values | _ungated(case)


def _ungated(case: TestCase) -> dict[str, float | None]:
    """Return Dice and counts of a guided network's mask with all its gates open; nothing of another network."""
    segmenter = case.segmenter
    if not isinstance(segmenter, UNetSharpSegmenter) or not segmenter.options.guidance:
        return {}
    with segmenter.ungated():
        mask = case.read(segmenter.variant(MAIN)).argmax(0).astype(np.uint8)
    return {f"{UNGATED}dice": case.rates(mask)["dice"]} | case.counts(mask, UNGATED)


# ---------------------------------------------------------------- tables


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Tables 1 to 3, paired differences, the pruning levels, and what guidance does to empty images."""
    dataset = paper_dataset(DATASETS, findings.dataset)
    first = [row.name for row in findings.rows() if row.name.removesuffix(" DS") in (*WIRINGS, "UNet# direct")]
    second = [row.name for row in findings.rows() if row.name.split(" ")[-1] in ENCODERS]
    third = [*COMPARATORS, SHARP, GUIDED]
    tables = [
        table_of_models(findings, "Table 1: IoU with and without deep supervision (DS)", "1", first, dataset),
        table_of_models(findings, "Table 2: backbones", "2", second, dataset),
        table_of_models(findings, "Table 3: other models", "3", third, dataset),
        differences(findings, [(SHARP, "UNet"), (SHARP_DEEP, "UNet"), (SHARP_DEEP, SHARP), (GUIDED, SHARP_DEEP)]),
        table_of_levels(findings),
    ]
    if any(not case.has_foreground for result in findings.results.values() for case in result.cases):
        tables.append(table_of_normals(findings.results))
    return tuple(tables)


def pooled_iou(result: RowResult, name: str = "") -> float | None:
    """Return the IoU of all voxels of all test cases together; `name` chooses another reading."""
    tp, apart = (sum(result.values(f"{name}{count}")) for count in ("tp", "fp"))
    union = tp + apart + sum(result.values(f"{name}fn"))
    return tp / union if union else None


def soft_dice(result: RowResult) -> float | None:
    """Return the paper's Dice of probabilities, of all voxels of all test cases together."""
    total = sum(result.values("soft_total"))
    return 2 * sum(result.values("soft_overlap")) / total if total else None


def share(value: float | None) -> str:
    """Return a share in per cent."""
    return NOTHING if value is None else f"{100 * value:.2f}"


def table_of_models(findings: Findings, title: str, table: str, names: list[str], dataset: str | None) -> Grid:
    """Return IoU and Dice of models, ours beside print."""
    rows = []
    for name in names:
        result = findings.results.get(name)
        ours = (NOT_TRAINED,) * 4
        if result is not None:
            jaccard, dice = (percent(result.summary(measure)) for measure in ("jaccard", "dice"))
            ours = (jaccard, share(pooled_iou(result)), dice, share(soft_dice(result)))
        prints = [printed_text(NAME, table, name, dataset, metric) for metric in ("iou", "dice")]
        rows.append((name, *ours, *prints))
    columns = (
        "model",
        "IoU, ours",
        "pooled IoU, ours",
        "Dice, ours",
        "soft Dice, ours",
        "IoU, printed",
        "Dice, printed",
    )
    return Grid(title, columns, tuple(rows))


def differences(findings: Findings, pairs: list[tuple[str, str]]) -> Grid:
    """Return paired differences of IoU between models that are trained."""
    rows = []
    for name, other in pairs:
        mine, theirs = findings.results.get(name), findings.results.get(other)
        if mine is not None and theirs is not None:
            rows.append((f"{name} minus {other}", difference(mine.compared(theirs, "jaccard"))))
    return Grid("Paired differences of IoU, points", ("models", "mean (95 % interval by group)"), tuple(rows))


_MEASURED: dict[Path, dict[int, LevelCost]] = {}
"""Costs of levels by the weights they were measured with, in this process."""


def level_costs(findings: Findings) -> dict[int, LevelCost]:
    """Measure what each level of the deeply supervised UNet# costs alone, where that row is trained."""
    from overread.ensemble.pruning import level_cost, levels_of

    if not findings.tested(SHARP_DEEP):
        return {}
    (_, weights), *_ = findings.networks[SHARP_DEEP]
    if weights not in _MEASURED:  # table and figure show one measurement
        case = _any_case(findings)
        channels, size = case.config.in_channels, case.config.patch_size
        _MEASURED[weights] = {
            variant.options["level"]: level_cost(case.segmenter, variant, in_channels=channels, size=size)
            for variant in levels_of(case.segmenter)
        }
    return _MEASURED[weights]


def table_of_levels(findings: Findings) -> Grid:
    """Return what the levels of the deeply supervised UNet# cost and read (Fig. 7 in figures)."""
    rows = []
    costs = level_costs(findings)
    for level, cost in costs.items():
        result = findings.results[SHARP_DEEP]
        rows.append(
            (
                f"L{level}",
                f"{cost.parameters:,}",
                f"{cost.flops / 1e9:.3f}",
                f"{1 / cost.seconds:.0f}",
                percent(result.summary(f"level_{level}_jaccard")),
                share(pooled_iou(result, f"level_{level}_")),
            )
        )
    of = "".join(f" of {cost.sides}" for cost in list(costs.values())[:1])
    columns = ("level", "parameters", f"GFLOPs per patch{of}", f"patches{of} per second", "IoU", "pooled IoU")
    return Grid(f"Figure 7 in figures: pruning levels of {SHARP_DEEP}", columns, tuple(rows))


def table_of_normals(results: Mapping[str, RowResult]) -> Grid:
    """Return how often foreground is found in images without any, with guidance also what its gates change."""
    rows = []
    readings = {name: (name, "") for name in (SHARP, SHARP_DEEP, GUIDED)}
    for title, (name, reading) in (readings | {f"{GUIDED}, gates open": (GUIDED, UNGATED)}).items():
        result = results.get(name)
        if result is not None and (not reading or result.values(f"{reading}dice")):
            normal = [case for case in result.cases if not case.has_foreground]
            found = sum(1 for case in normal if (case.values.get(f"{reading}fp") or 0) > 0)
            dice = percent(result.summary(f"{reading}dice", foreground_only=True))
            rows.append((title, f"{found} of {len(normal)}", share(found / len(normal)), dice))
    columns = ("model", "normal images with foreground", "false-positive rate", "Dice of images with foreground")
    return Grid("Images without foreground", columns, tuple(rows))


# ---------------------------------------------------------------- figures


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the figures as far as their rows are trained; return those written."""
    makers = (draw_boxes, _levels, _examples)
    return tuple(path for maker in makers if (path := maker(findings, folder)) is not None)


def draw_boxes(findings: Findings, folder: Path) -> Path | None:
    """Figs. 5 and 6: the spread of IoU over the test images."""
    trained = findings.trained([row.name for row in findings.rows()])
    if not trained:
        return None
    path = folder / "fig05-06-iou.png"
    with figures.drawing(path, width=max(4.0, 1.5 + len(trained))) as axes:
        values = {result.row: result.values("jaccard") for result in trained}
        figures.boxes(axes, values, f"Figs. 5, 6: IoU of the test images (n = {len(trained[0].cases)})", "IoU")
    return path


def _levels(findings: Findings, folder: Path) -> Path | None:
    """Fig. 7: parameters, speed and IoU of the pruning levels."""
    costs = level_costs(findings)
    if not costs:
        return None
    result = findings.results[SHARP_DEEP]
    iou = {level: result.summary(f"level_{level}_jaccard").mean or 0.0 for level in costs}
    return figures.pruning_levels(folder / "fig07-pruning.png", list(costs.values()), iou, len(result.cases))


def _examples(findings: Findings, folder: Path) -> Path | None:
    """Test images from the worst to the best of UNet#, with truth and the masks of U-Net and UNet#."""
    names = ("UNet", SHARP_DEEP)
    if not findings.tested(*names):
        return None
    cases = [case for case in findings.results[SHARP_DEEP].cases if case.has_foreground]
    ranked = sorted(cases, key=lambda case: case.values["jaccard"] or 0.0)
    panels = [figures.Contoured(c.case[:12], *findings.shown_masks(c.case, names)) for c in spread(ranked)]
    return figures.contoured(folder / "examples.png", panels)


def _any_case(findings: Findings) -> TestCase:
    return findings.opened(SHARP_DEEP, findings.results[SHARP_DEEP].cases[0].case)


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="UNet# (Qian et al. 2022)",
        rows=_rows(),
        protocols=PROTOCOLS,
        measure=measure,
        exhibits=exhibits,
        pictures=pictures,
    ),
)
