"""What reviewing the worst x % of the cases by hand gains: the mean Dice of the rest, and the failures that are caught.

Cases are reviewed in the order that a person is shown (`ranking`); those that it cannot tell apart count in
expectation over their orders (`tied_order`). The figures come from the true Dice where any is known, else from the
predicted Dice, and the plan says which. A case without a predicted Dice is never safe: it counts as a failure, and not
in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overread.confidence.failure_detection import FAILURE_DICE
from overread.confidence.ranking import review_levels
from overread.confidence.tied_order import TiedOrder
from overread.jsonio import JsonRecord
from overread.records import CaseConfidence

PER_CENT = tuple(range(101))


@dataclass(frozen=True, kw_only=True)
class ReviewPlan(JsonRecord):
    """All figures by per cent reviewed, 0 to 100."""

    basis: str
    """`true` or `predicted` Dice."""
    n: int
    """Cases that the figures are of."""
    failure_dice: float
    failures: int
    """Cases of lower Dice; of predicted Dice, also the cases without one."""
    reviewed: tuple[int, ...]
    """Number of cases reviewed, rounded down."""
    rest_dice: tuple[float | None, ...]
    """Expected mean Dice of the others; None: no other has a Dice."""
    caught: tuple[float, ...]
    """Expected number of failures among the reviewed."""


def review_plan(
    rows: Sequence[CaseConfidence],
    dice: Sequence[float | None],
    score: str,
    failure_dice: float = FAILURE_DICE,
) -> ReviewPlan | None:
    """Return the plan of reviewing by a score; None where neither a true nor a predicted Dice is known."""
    if len(rows) != len(dice):
        raise ValueError(f"each row must have a Dice or None, but there are {len(rows)} rows and {len(dice)} Dice")
    known = [(row, value) for row, value in zip(rows, dice, strict=True) if value is not None]
    if known:
        return _plan("true", [row for row, _ in known], [value for _, value in known], score, failure_dice)
    if any(row.predicted_dice is not None for row in rows):
        return _plan("predicted", rows, [row.predicted_dice for row in rows], score, failure_dice)
    return None


def _plan(
    basis: str, rows: Sequence[CaseConfidence], dice: Sequence[float | None], score: str, failure_dice: float
) -> ReviewPlan:
    order = TiedOrder([float(level) for level in review_levels(rows, score)])
    has = np.array([value is not None for value in dice], dtype=np.float64)
    values = np.array([0.0 if value is None else value for value in dice])
    failed = np.array([value is None or value < failure_dice for value in dice], dtype=np.float64)
    reviewed = [len(rows) * share // 100 for share in PER_CENT]
    kept = np.array([len(rows) - count for count in reviewed if count < len(rows)])
    ones = np.ones((len(kept), len(rows)), dtype=np.int64)
    total, counted, missed = (order.first(ones, column, kept) for column in (values, has, failed))
    rest = [float(t / c) if c > 1e-9 else None for t, c in zip(total, counted, strict=True)]
    caught = [float(failed.sum() - m) for m in missed]
    beyond = len(PER_CENT) - len(kept)  # everything is reviewed: no rest
    return ReviewPlan(
        basis=basis,
        n=len(rows),
        failure_dice=failure_dice,
        failures=int(failed.sum()),
        reviewed=tuple(reviewed),
        rest_dice=(*rest, *[None] * beyond),
        caught=(*caught, *[float(failed.sum())] * beyond),
    )
