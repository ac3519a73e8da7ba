"""What each member brings to an ensemble, and how alike the members' errors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.ensemble.candidates import Predictions, Votes, dice_of, dice_per_case
from overread.jsonio import JsonRecord
from overread.metrics.summary import Summary, paired_bootstrap, summarise

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Contribution(JsonRecord):
    """One member of a choice."""

    member: str
    votes: float
    alone: Summary
    """Dice of the member alone."""
    contribution: Summary
    """Paired: Dice of the ensemble minus that without the member; of an ensemble of one, minus nothing (None)."""


@dataclass(frozen=True, kw_only=True)
class ErrorCorrelation(JsonRecord):
    """How alike the errors are, members by members; None where a member's errors do not vary."""

    members: tuple[str, ...]
    by_case: Matrix
    """Pearson's correlation of 1 - Dice over the cases: also high where all fail on the same hard cases."""
    by_voxel: Matrix
    """Correlation (phi) of being wrong at a voxel, over all voxels of all cases: what a vote cannot repair."""


def contributions(predictions: Predictions, votes: Votes) -> tuple[Contribution, ...]:
    """Return a row per member of a choice, with intervals by group."""
    together = dice_per_case(predictions, votes)
    without = {member: {name: own for name, own in votes.items() if name != member} for member in votes}
    return tuple(
        Contribution(
            member=member,
            votes=weight,
            alone=summarise(dice_per_case(predictions, {member: 1.0}), groups=predictions.groups),
            contribution=paired_bootstrap(together, dice_per_case(predictions, rest), groups=predictions.groups)
            if (rest := without[member])
            else summarise([]),
        )
        for member, weight in votes.items()
    )


def error_correlation(predictions: Predictions, members: Sequence[str] | None = None) -> ErrorCorrelation:
    """Return how alike the errors of members (None: all) are; memory is one bit per voxel and member of a case."""
    names = tuple(predictions.members if members is None else members)
    risk = np.zeros((len(names), len(predictions.cases)))
    both = np.zeros((len(names), len(names)))
    voxels = 0
    for column, case in enumerate(predictions.cases):
        truth = predictions.truth(case)
        wrong = []
        for row, member in enumerate(names):
            probabilities = predictions.probabilities(member, case)
            risk[row, column] = 1 - dice_of(probabilities, truth, None)
            wrong.append(np.packbits(np.argmax(probabilities, axis=0) != truth))
        voxels += truth.size
        for i, first in enumerate(wrong):
            for j in range(i, len(names)):
                both[i, j] = both[j, i] = both[i, j] + int(np.bitwise_count(first & wrong[j]).sum(dtype=np.int64))
    share = np.diagonal(both) / voxels
    covariance = both / voxels - np.outer(share, share)
    centred = risk - risk.mean(1, keepdims=True)
    by_case = centred @ centred.T / risk.shape[1]
    return ErrorCorrelation(members=names, by_case=_correlation(by_case), by_voxel=_correlation(covariance))


def _correlation(covariance: NDArray[np.float64]) -> Matrix:
    spread = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    return tuple(
        tuple(
            float(np.clip(value / (a * b), -1, 1)) if min(a, b) > 1e-12 else None
            for value, b in zip(row, spread, strict=True)
        )
        for row, a in zip(covariance, spread, strict=True)
    )
