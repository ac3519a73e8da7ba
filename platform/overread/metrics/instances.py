"""How well single objects are found: average precision, the precision of DSB2018, and the aggregated Jaccard index.

A mask of instances holds an id at each pixel, 0 = none; objects do not overlap, classes are not told apart. Everything
comes from the intersections of found and true objects, counted once per image. Conventions (design section 5): nothing
there and nothing found 1, only one of them 0. An object is found if a prediction has at least the threshold as IoU with
it; each is found once, the rest are false positives. Shapes: P predictions, T true objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.metrics.overlap import Ids, ratio

Floats = NDArray[np.float64]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU thresholds of the mean average precision (COCO): 0.5, 0.55, ..., 0.95."""


@dataclass(frozen=True)
class Overlaps:
    """What all metrics of one image come from. Predictions are by falling score."""

    common: NDArray[np.int64]
    """(P, T) pixels of both."""
    predicted: NDArray[np.int64]
    """(P,) pixels of each prediction."""
    true: NDArray[np.int64]
    """(T,) pixels of each true object."""
    scores: Floats
    """(P,)."""

    @property
    def union(self) -> NDArray[np.int64]:
        """(P, T) pixels of one or both."""
        return self.predicted[:, None] + self.true[None] - self.common

    @property
    def iou(self) -> Floats:
        """(P, T) intersection over union."""
        return self.common / self.union

    def scored(self, least: float) -> Overlaps:
        """Return the overlaps of the predictions with at least this score."""
        kept = self.scores >= least
        return Overlaps(self.common[kept], self.predicted[kept], self.true, self.scores[kept])

    def hits(self, threshold: float) -> NDArray[np.bool_]:
        """Return (P,) whether each prediction finds an object: the best ones choose first, each the largest IoU left.

        Above a threshold of 0.5 there is never a choice. At 0.5 there is one: each half of an object has just this IoU.
        """
        iou = self.iou
        result = np.zeros(len(iou), bool)
        for row in np.flatnonzero((iou >= threshold).any(1)):
            best = int(iou[row].argmax())
            if iou[row, best] >= threshold:
                result[row] = True
                iou[:, best] = 0
        return result


def count_overlaps(prediction: Ids, truth: Ids, scores: Sequence[float] | Floats | None = None) -> Overlaps:
    """Return the overlaps of two masks of ids of equal shape; `scores[i]` is that of id i + 1 (None: all alike)."""
    if prediction.shape != truth.shape:
        raise UserError(f"prediction and truth must have the same shape, but got {prediction.shape} and {truth.shape}")
    found, rows = _numbered(prediction, "prediction")
    there, columns = _numbered(truth, "truth")
    if scores is not None and len(found) and found[-1] > len(scores):
        raise UserError(f"every predicted id must have a score, but got id {found[-1]} and {len(scores)} scores")
    joint = np.bincount(rows * (len(there) + 1) + columns, minlength=(len(found) + 1) * (len(there) + 1))
    table = joint.reshape(len(found) + 1, len(there) + 1)
    own = np.ones(len(found)) if scores is None else np.asarray(scores, dtype=np.float64)[found - 1]
    order = np.argsort(-own, kind="stable")
    return Overlaps(table[1:, 1:][order], table[1:].sum(1)[order], table[:, 1:].sum(0), own[order])


def _numbered(mask: Ids, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids but 0, ascending, and the mask (pixels,) with their numbers 1, 2, ... instead."""
    values, numbers = np.unique(mask.ravel(), return_inverse=True)
    if len(values) and values[0] < 0:
        raise UserError(f"{name} must hold ids >= 0, but got {values[0]}")
    if len(values) and values[0] == 0:
        return values[1:].astype(np.int64), numbers.astype(np.int64)
    return values.astype(np.int64), numbers.astype(np.int64) + 1


def threshold_precision(image: Overlaps, threshold: float = 0.5) -> float:
    """Return TP / (TP + FP + FN) of one image: the precision of the 2018 Data Science Bowl at one threshold."""
    hits = int(image.hits(threshold).sum())
    return ratio(hits, len(image.predicted) + len(image.true) - hits)


def aggregated_jaccard(image: Overlaps) -> float:
    """Return the AJI of one image (Kumar et al. 2017, Algorithm 1).

    Every true object takes the prediction of largest IoU; their intersections are summed, and divided by the sum of
    their unions and of all predictions that no object took. An object that nothing overlaps adds its pixels below.
    """
    if not len(image.true) or not len(image.predicted):
        return float(len(image.true) == len(image.predicted))
    best = image.iou.argmax(0)
    columns = np.arange(len(image.true))
    common = image.common[best, columns]
    union = np.where(common > 0, image.union[best, columns], image.true)
    unused = np.setdiff1d(np.arange(len(image.predicted)), best[common > 0])
    return float(common.sum() / (union.sum() + image.predicted[unused].sum()))


def average_precision(scores: Floats, hits: NDArray[np.bool_], true: int) -> float:
    """Return the area under precision over recall of the predictions (P,) of a data set, ranked by score.

    `hits` says which find an object (`Overlaps.hits` of each image), `true` how many objects there are. At each recall
    the precision is the best reached there or further on, without rounding to some points (VOC 2010). Of equal scores
    the first come first.
    """
    if not true or not len(hits):
        return float(not true and not len(hits))
    ranked = hits[np.argsort(-scores, kind="stable")]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[ranked].sum() / true)
