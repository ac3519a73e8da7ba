"""A reading held against several annotators: each of them, their consensus, and the variety of their opinions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from overread.errors import UserError
from overread.metrics.generalised_energy import generalised_energy_distance
from overread.metrics.overlap import Mask, dice
from overread.metrics.staple import staple


@dataclass(frozen=True)
class AnnotatorAgreement:
    """Of one class of one case; Dice of two empty masks is 1, of one empty and one not 0."""

    each: tuple[float, ...]
    """Dice of the reading with each annotator, in their order."""
    majority: float
    """Dice with what more than half of the annotators mark."""
    consensus: float | None
    """Dice with the STAPLE consensus. None: that is empty though somebody marked something, as of two who share no
    voxel; they agree on nothing, and an empty reading is not right."""
    energy_distance: float
    """Generalised energy distance of the reading alone from the annotations; small is good."""
    between: float | None
    """Mean Dice of two different annotators, what a reading can be expected to reach; None: there is only one."""

    @property
    def mean(self) -> float:
        """Mean Dice with the annotators."""
        return sum(self.each) / len(self.each)


def annotator_agreement(reading: Mask, annotations: Mask) -> AnnotatorAgreement:
    """Compare a reading (*S) with annotations (A, *S).

    All annotations count, empty ones too: leave out those that should not.
    """
    if not len(annotations):
        raise UserError("a reading must be held against at least one annotation, but got none")
    agreed = staple(annotations).mask
    pairs = [dice(first, second) for place, first in enumerate(annotations) for second in annotations[place + 1 :]]
    return AnnotatorAgreement(
        each=tuple(dice(reading, annotation) for annotation in annotations),
        majority=dice(reading, np.asarray(annotations.mean(0) > 0.5)),
        consensus=dice(reading, agreed) if agreed.any() or not annotations.any() else None,
        energy_distance=generalised_energy_distance(reading[None], annotations),
        between=float(np.mean(pairs)) if pairs else None,
    )
