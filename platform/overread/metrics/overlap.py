"""Overlap of a prediction and a truth, per class and case.

One joint histogram per case gives the four counts of every class; each metric is a formula on these counts.
Conventions (design section 5): both masks empty 1, one empty 0; a class absent in both is left out of a case's mean.
For metrics of the outside (specificity) the same holds for the complements. All metrics: 1 is best, 0 is worst.
A share of nothing (sensitivity where the truth is empty) can also be left undefined, as papers do: `Metric.strict`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.registry import Registry

Mask = NDArray[np.bool_]
Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Counts:
    """Voxel counts of one class: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def absent(self) -> bool:
        """Whether the class is neither in the prediction nor in the truth."""
        return self.tp + self.fp + self.fn == 0

    @property
    def in_truth(self) -> bool:
        """Whether the truth has the class."""
        return self.tp + self.fn > 0

    @property
    def predicted(self) -> bool:
        """Whether the prediction has the class."""
        return self.tp + self.fp > 0

    @property
    def complement(self) -> Counts:
        """The counts of all that is not the class: of the background, those of the merged foreground."""
        return Counts(tp=self.tn, fp=self.fn, fn=self.fp, tn=self.tp)

    def __add__(self, other: Counts) -> Counts:
        """Return the counts over the voxels of both, such as two slices of a volume."""
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def _always(counts: Counts) -> bool:
    return True


@dataclass(frozen=True)
class Metric:
    """A named formula on `Counts`; call it with two boolean masks of equal shape."""

    name: str
    formula: Callable[[Counts], float]
    description: str
    defined: Callable[[Counts], bool] = _always
    """Whether the metric is a share of anything; where it is not, `formula` still gives 1 or 0."""

    def strict(self, counts: Counts) -> float | None:
        """Return the metric, None where it is a share of nothing."""
        return self.formula(counts) if self.defined(counts) else None

    def __call__(self, prediction: Mask, truth: Mask) -> float:
        """Return the metric of two boolean masks; masks of different shape raise `UserError`."""
        return self.formula(class_counts(prediction, truth, 2)[1])


@dataclass(frozen=True)
class CaseDice:
    """A metric (Dice unless said) of one case."""

    per_class: tuple[float | None, ...]
    """By foreground class, index 0 = class id 1; None: the class is absent in prediction and truth."""
    mean: float
    """Over the classes present; 1 if there are none (both empty)."""


METRICS: Registry[Metric] = Registry("metric")


def ratio(numerator: float, denominator: float) -> float:
    """Return numerator / denominator, and 1 for 0 / 0: nothing was there and nothing was found."""
    return numerator / denominator if denominator else 1.0


def _share(hits: int, asked: int, other: int) -> float:
    """Return hits / asked; where nothing was asked for, 1 if nothing else was found either and 0 otherwise."""
    return hits / asked if asked else float(other == 0)


def _metric(
    name: str, description: str, formula: Callable[[Counts], float], defined: Callable[[Counts], bool] = _always
) -> Metric:
    return METRICS.add(name, Metric(name, formula, description, defined))


dice = _metric("dice", "2 |A n B| / (|A| + |B|)", lambda c: ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn))
jaccard = _metric("jaccard", "|A n B| / |A u B|", lambda c: ratio(c.tp, c.tp + c.fp + c.fn))
sensitivity = _metric(
    "sensitivity",
    "found share of the truth",
    lambda c: _share(c.tp, c.tp + c.fn, c.fp),
    lambda c: c.in_truth,
)
precision = _metric(
    "precision",
    "true share of the found",
    lambda c: _share(c.tp, c.tp + c.fp, c.fn),
    lambda c: c.predicted,
)
specificity = _metric(
    "specificity",
    "share of the outside left alone",
    lambda c: _share(c.tn, c.tn + c.fp, c.fn),
    lambda c: c.complement.in_truth,
)
accuracy = _metric("accuracy", "share of voxels right", lambda c: ratio(c.tp + c.tn, c.tp + c.tn + c.fp + c.fn))


def class_counts(prediction: Ids | Mask, truth: Ids | Mask, classes: int) -> tuple[Counts, ...]:
    """Return the counts of every class id in 0..classes-1 of two masks of class ids of equal shape."""
    if prediction.shape != truth.shape:
        raise UserError(f"prediction and truth must have the same shape, but got {prediction.shape} and {truth.shape}")
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.size and not (mask.min() >= 0 and mask.max() < classes):
            raise UserError(f"{name} must hold class ids in 0..{classes - 1}, but got {mask.min()}..{mask.max()}")
    joint = np.bincount(
        prediction.ravel().astype(np.intp) * classes + truth.ravel().astype(np.intp), minlength=classes * classes
    )
    table = joint.reshape(classes, classes)
    found, true, total = table.sum(1), table.sum(0), int(table.sum())
    return tuple(
        Counts(
            tp=int(table[k, k]),
            fp=int(found[k] - table[k, k]),
            fn=int(true[k] - table[k, k]),
            tn=int(total - found[k] - true[k] + table[k, k]),
        )
        for k in range(classes)
    )


def case_values(counts: tuple[Counts, ...], metric: Metric = dice) -> CaseDice:
    """Return a metric per foreground class and its mean, from `class_counts` of a case."""
    per_class = tuple(None if c.absent else metric.formula(c) for c in counts[1:])
    present = [value for value in per_class if value is not None]
    return CaseDice(per_class, sum(present) / len(present) if present else 1.0)


def case_dice(prediction: Ids, truth: Ids, classes: int) -> CaseDice:
    """Return the Dice of one case's masks of class ids (background included in `classes`)."""
    return case_values(class_counts(prediction, truth, classes))
