"""UNet# (Qian et al. 2022), 3-D: Table 1 right, for one data set of volumes.

V-Net, V-Net2+, V-Net3+ and V-Net#, trained on patches and read by sliding windows. The paper's set (nodules of Luna16)
is one structure; data with several keep them apart here, and the mean over classes ("class Dice") stands beside the
overlap of all structures together. `small` halves the width, leaves out the deepest level and projects before it
upsamples (the same weights at about half of the cost), which two CPU cores train in less than an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overread.records import AugmentConfig
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import PAPERS, Paper, Protocol, Size
from overread.reproduction.printed import paper_dataset, printed_text
from overread.reproduction.results import Findings
from overread.reproduction.unetsharp import (
    AUGMENTATION,
    DATASETS,
    TRAINING,
    differences,
    draw_boxes,
    grid_rows,
    pooled_iou,
    share,
)
from overread.reproduction.writing import NOT_TRAINED, percent
from overread.review.tables import Grid

NAME = "unetsharp-3d"
WIRINGS = {"V-Net": "plain", "WV-Net": "plain", "V-Net2+": "nested", "V-Net3+": "full_scale", "V-Net#": "sharp"}
SUPERVISED = ("V-Net2+", "V-Net3+", "V-Net#")
SOLID: dict[str, Any] = {"encoder": "v_net", "width": 16, "projection_factor": 2}
CORE = ("V-Net#",)
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=128,
        spatial_dims=3,
        width=1.0,
        passes=100,
        batch_size=8,
        optimiser=TRAINING,
        augment=AUGMENTATION,
    ),
    "small": Protocol(
        max_side=64,
        spatial_dims=3,
        width=0.5,
        options={"level": 3, "project_first": True},
        steps=1600,
        batch_size=2,
        optimiser=TRAINING,
        augment=AugmentConfig(flip=False, rotate_degrees=15.0, scale=0.1, intensity=0.1),
        validations=6,
    ),
}


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the mean Dice over the classes."""
    return {"class_dice": case.class_dice(case.probabilities().argmax(0))}


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Table 1's right half and the paired differences."""
    rows = []
    for row in findings.rows():
        result = findings.results.get(row.name)
        ours = (NOT_TRAINED,) * 4
        if result is not None:
            jaccard, dice, per_class = (percent(result.summary(name)) for name in ("jaccard", "dice", "class_dice"))
            ours = (jaccard, share(pooled_iou(result)), dice, per_class)
        rows.append(
            (
                row.name,
                *ours,
                printed_text("unetsharp", "1", row.name, paper_dataset(DATASETS, findings.dataset), "iou"),
            )
        )
    columns = ("model", "IoU, ours", "pooled IoU, ours", "Dice, ours", "class Dice, ours", "IoU, printed")
    return (
        Grid("Table 1: volumes", columns, tuple(rows)),
        differences(findings, [("V-Net#", "V-Net"), ("V-Net# DS", "V-Net#")]),
    )


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the spread of IoU over the test volumes."""
    path = draw_boxes(findings, folder)
    return () if path is None else (path,)


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="UNet# (Qian et al. 2022), volumes",
        rows=grid_rows(WIRINGS, SUPERVISED, SOLID, CORE),
        protocols=PROTOCOLS,
        measure=measure,
        exhibits=exhibits,
        pictures=pictures,
    ),
)
