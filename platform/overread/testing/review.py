"""A made-up review page of any size: discs read by three members that differ the more, the worse the case."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from overread.confidence.coverage import coverage_curve
from overread.confidence.relations import Relations
from overread.confidence.scores import case_confidence
from overread.metrics.overlap import case_dice
from overread.records import CaseConfidence
from overread.review.report import CaseRow, MemberRow, ReportData
from overread.review.views import PREDICTION, CaseView, case_view

LABELS = ("background", "inner", "outer")
MEMBERS = ("unet-1", "unet_sharp-2", "dai_net-3")
AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
HOSTILE = '<img src=x onerror="document.title=1">,=1+1'
"""Name of the worst case."""
FAILED = "dai_net-9"


@lru_cache(maxsize=64)
def made_reading(wobble: int, side: int) -> tuple[CaseConfidence, CaseView, float]:
    """Return row, view and Dice of one case (side, side, side / 2): the members are `wobble` voxels apart."""
    shape = (side, side, side // 2)
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")

    def ids(shift: float) -> NDArray[np.uint8]:
        distance = np.sqrt((x - shift) ** 2 + (0.7 * y) ** 2 + (2 * z) ** 2)
        return (distance < side / 3).astype(np.uint8) * 2 - (distance < side / 5)

    truth, masks = ids(0), {name: ids(wobble * at / 2) for at, name in enumerate(MEMBERS)}
    grey = 100.0 * (truth > 0) + 60 * (truth == 1) + np.random.default_rng(wobble).normal(0, 15, shape)
    relations = Relations(shape, len(LABELS))
    for name, mask in masks.items():
        relations.add(mask, name)
    mask = masks[MEMBERS[1]]
    view = case_view(
        grey,
        [(PREDICTION, mask), *masks.items()],
        foreground=relations.possible(1) | relations.possible(2) | (truth > 0),
        slice_axis=2,
        truth=truth,
        affine=AFFINE,
        spacing=(1.0, 1.0, 2.5),
    )
    row = case_confidence("", relations, LABELS, 0.9)
    return row, view, case_dice(mask, truth, len(LABELS)).mean


def made_report(cases: int, *, side: int = 48, steps: int = 12, labelled: bool = True) -> ReportData:
    """Return the data of a page, `steps` different cases in turn; the worst has a hostile name and a flag."""
    rows = []
    for at in range(cases):
        row, view, dice = made_reading(12 - 12 // steps * (at * steps // cases), side)
        own = replace(row, case=f"case_{at:04d}") if at else replace(row, case=HOSTILE, flag=f"member_failed:{FAILED}")
        rows.append(CaseRow(confidence=own, dice=dice if labelled else None, view=partial(_same, view)))
    scores = [row.confidence.relation_confidence for row in rows]
    known = [row.dice for row in rows if row.dice is not None]
    return ReportData(
        title="overread: made up",
        dataset="made up",
        cases=rows,
        members=[MemberRow(name=n, architecture=n[:-2], variant="main", validation_dice=0.8) for n in MEMBERS],
        coverage={"relation_confidence": coverage_curve(scores, known)} if labelled else {},
        warnings=["The predicted Dice of these cases differ from those of the calibration"],
        settings={"seed": "0"},
    )


def _same(view: CaseView) -> CaseView:
    return view
