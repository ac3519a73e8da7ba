"""UNet# (Qian et al. 2022), instances: the Mask R-CNN half of Table 2, for one data set with instance ids.

The paper prints IoU and Dice of the union of all objects; beside them stand what detectors are measured by: average
precision at IoU 0.5 and over 0.5 to 0.95, the precision of the Data Science Bowl, and the aggregated Jaccard index.
Average precision ranks whatever a network finds, however unsure; all else, and the picture, is of the objects whose
score is at least `CONFIDENT`.
`small` trains with the encoder of U-Net at a quarter of the width, from scratch; the paper's backbones are rows, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from overread.data.preprocess import to_native_ids
from overread.metrics.instances import (
    THRESHOLDS,
    aggregated_jaccard,
    average_precision,
    threshold_precision,
)
from overread.records import OptimiserConfig
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import PAPERS, Paper, Protocol, Row, Size
from overread.reproduction.printed import paper_dataset, printed_text
from overread.reproduction.results import Findings, RowResult, spread
from overread.reproduction.unetsharp import AUGMENTATION, DATASETS, pooled_iou, share
from overread.reproduction.writing import NOT_TRAINED, difference, percent
from overread.review import figures
from overread.review.tables import Grid

NAME = "unetsharp-instances"
WIRINGS = {"Mask R-CNN": "plain", "Mask R-CNN2+": "nested", "Mask R-CNN3+": "full_scale", "Mask R-CNN#": "sharp"}
ENCODERS = {"": "double_conv", " VGG16": "vgg16", " R101": "resnet101"}
"""By the end of a row's name; the paper has the last two."""
CORE = ("Mask R-CNN#",)
CONFIDENT = 0.5
"""Least score of what counts as an object: the network says that it is one rather than that it is not."""
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=512,
        width=1.0,
        passes=100,
        batch_size=8,
        optimiser=OptimiserConfig(name="adam", learning_rate=1e-4, weight_decay=1e-4, schedule="cosine"),
        augment=AUGMENTATION,
        merge_labels=True,
    ),
    "small": Protocol(
        max_side=256,
        width=0.25,
        options={"proposals": 300, "region_samples": 128},
        steps=2400,
        batch_size=2,
        optimiser=OptimiserConfig(name="adamw", learning_rate=2e-3, weight_decay=1e-4, schedule="one_cycle"),
        augment=AUGMENTATION,
        validations=6,
        merge_labels=True,
    ),
}


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the figures of the confident objects: of their union, and one by one; and the number of true objects."""
    overlaps = case.overlaps()
    confident = overlaps.scored(CONFIDENT)
    ids = case.instances.scored(CONFIDENT).ids
    native = to_native_ids(ids, case.prepared.case(case.case_id).native_shape, case.prepared.preprocessing)
    union = (native > 0).astype(np.uint8)
    return {
        **case.rates(union),
        **case.counts(union),
        "aji": aggregated_jaccard(confident),
        "precision_50": threshold_precision(confident),
        "objects": float(len(overlaps.true)),
    }


def measure_lists(case: TestCase) -> dict[str, tuple[float, ...]]:
    """Return score and hits (0 or 1, by threshold) of every object found: what average precision over images needs."""
    overlaps = case.overlaps()
    hits = {hits_at(threshold): tuple(overlaps.hits(threshold).astype(float).tolist()) for threshold in THRESHOLDS}
    return {"scores": tuple(overlaps.scores.tolist())} | hits


def hits_at(threshold: float) -> str:
    """Return the name of the hits at an IoU threshold."""
    return f"hits_{threshold:g}"


def pooled_precision(result: RowResult, threshold: float) -> float:
    """Return the average precision of all objects of all test images at one of `THRESHOLDS`."""
    scores = [score for case in result.cases for score in case.lists["scores"]]
    hits = [hit for case in result.cases for hit in case.lists[hits_at(threshold)]]
    return average_precision(np.asarray(scores), np.asarray(hits, dtype=bool), int(sum(result.values("objects"))))


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return the detectors' half of Table 2, and paired differences."""
    rows = []
    dataset = paper_dataset(DATASETS, findings.dataset)
    for row in findings.rows():
        result = findings.results.get(row.name)
        ours = (NOT_TRAINED,) * 6
        if result is not None:
            precision = [pooled_precision(result, threshold) for threshold in THRESHOLDS]
            aji, ds, dice = (percent(result.summary(name)) for name in ("aji", "precision_50", "dice"))
            mean = sum(precision) / len(precision)
            ours = (share(precision[0]), share(mean), ds, aji, share(pooled_iou(result)), dice)
        prints = (printed_text("unetsharp", "2", row.name, dataset, metric) for metric in ("iou", "dice"))
        rows.append((row.name, *ours, *prints))
    names = ("AP at 0.5", "mean AP", "precision at 0.5", "AJI", "pooled IoU", "Dice")
    columns = ("model", *(f"{name}, ours" for name in names), "IoU, printed", "Dice, printed")
    tables = [Grid("Table 2: instances", columns, tuple(rows))]
    pairs = []
    for name in list(WIRINGS)[1:]:
        mine, plain = findings.results.get(name), findings.results.get("Mask R-CNN")
        if mine is not None and plain is not None:
            texts = (difference(mine.compared(plain, measure)) for measure in ("precision_50", "aji"))
            pairs.append((f"{name} minus Mask R-CNN", *texts))
    if pairs:
        tables.append(Grid("Paired differences, points", ("models", "precision at 0.5", "AJI"), tuple(pairs)))
    return tuple(tables)


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write test images with the confident objects of Mask R-CNN#, from the worst to the best."""
    name = CORE[0]
    if not findings.tested(name):
        return ()
    ranked = sorted(findings.results[name].cases, key=lambda case: case.values["precision_50"] or 0.0)
    panels = []
    for measures in spread(ranked):
        case = findings.opened(name, measures.case)
        found = case.instances.scored(CONFIDENT).ids[0]
        panels.append(figures.Coloured(measures.case[:12], case.image[0, 0], found))
    return (figures.coloured(folder / "instances.png", panels),)


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="UNet# (Qian et al. 2022), instances",
        rows=tuple(
            Row(
                name=f"{name}{ending}",
                architecture="mask_rcnn",
                options={"wiring": wiring, "encoder": encoder},
                core=f"{name}{ending}" in CORE,
            )
            for ending, encoder in ENCODERS.items()
            for name, wiring in WIRINGS.items()
        ),
        protocols=PROTOCOLS,
        measure=measure,
        measure_lists=measure_lists,
        exhibits=exhibits,
        pictures=pictures,
    ),
)
