"""How well single objects are found: average precision, the precision of DSB2018, and the aggregated Jaccard index.

A mask of instances holds an id at each pixel, 0 = none; objects do not overlap, classes are not told apart. Everything
comes from the intersections of found and true objects, counted once per image. Conventions (design section 5): nothing
there and nothing found 1, only one of them 0. An object is found if a prediction has at least the threshold as IoU with
it; each is found once, the rest are false positives. Shapes: P predictions, T true objects of one image.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.overlap import Ids, ratio
from overread.metrics.summary import Summary, summarise

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

    def hits(self, threshold: float) -> NDArray[np.bool_]:
        """Return (P,) whether each prediction finds an object: the best ones choose first, each the largest IoU left.

        From a threshold of 0.5 on there is never a choice: at most one prediction can reach it for an object.
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


def average_precision(images: Sequence[Overlaps], threshold: float = 0.5) -> float:
    """Return the area under precision over recall of all predictions of a data set, ranked by score.

    At each recall the precision is the best reached there or further on, without rounding to some points (VOC 2010).
    Of equal scores those of earlier images come first.
    """
    true = sum(len(image.true) for image in images)
    hits = np.concatenate([image.hits(threshold) for image in images] or [np.zeros(0, bool)])
    if not len(hits):
        return float(not true)
    return ranked_average_precision(np.concatenate([image.scores for image in images]), hits, true)


def ranked_average_precision(scores: Floats, hits: NDArray[np.bool_], true: int) -> float:
    """Return the area under precision over recall of predictions with scores, of which `hits` find one of `true`."""
    if not true or not len(hits):
        return float(not true and not len(hits))
    ranked = hits[np.argsort(-scores, kind="stable")]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[ranked].sum() / true)


def best_overlaps(image: Overlaps) -> Floats:
    """Return (P,) the largest IoU of each prediction with a true object; 0 where there is none.

    From 0.5 on at most one prediction reaches a threshold for an object: who exceeds it is a hit.
    """
    return image.iou.max(1) if len(image.true) else np.zeros(len(image.predicted))


@dataclass(frozen=True, kw_only=True)
class InstanceScores(JsonRecord):
    """The instance metrics of a data set."""

    ap50: float
    """Average precision at IoU 0.5."""
    mean_ap: float
    """Mean of the average precisions at `THRESHOLDS`."""
    ap: dict[str, float]
    """By threshold."""
    precision50: Summary
    """TP / (TP + FP + FN) at IoU 0.5 over images."""
    aji: Summary
    """Aggregated Jaccard index over images."""
    images: int
    objects: int
    """True ones, over all images."""
    predictions: int


def instance_scores(
    images: Sequence[Overlaps], groups: Sequence[Hashable] | None = None, seed: int = 0
) -> InstanceScores:
    """Return all metrics of a data set, from the overlaps of each image; `groups` names the group of each."""
    ap = {threshold: average_precision(images, threshold) for threshold in THRESHOLDS}
    return InstanceScores(
        ap50=ap[THRESHOLDS[0]],
        mean_ap=float(np.mean(list(ap.values()))),
        ap={f"{threshold:g}": value for threshold, value in ap.items()},
        precision50=summarise([threshold_precision(image) for image in images], seed, groups=groups),
        aji=summarise([aggregated_jaccard(image) for image in images], seed, groups=groups),
        images=len(images),
        objects=sum(len(image.true) for image in images),
        predictions=sum(len(image.predicted) for image in images),
    )
