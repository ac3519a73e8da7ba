"""What each member brings to an ensemble, and how alike the members' errors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overread.ensemble.candidates import Alone, Predictions, Votes, dice_per_case
from overread.jsonio import JsonRecord
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.records import Vote

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Contribution(JsonRecord):
    """One member of a choice."""

    member: str
    votes: Vote
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

    def among(self, members: Sequence[str]) -> ErrorCorrelation:
        """Return the part of the matrices that is of these members."""
        places = [self.members.index(member) for member in members]
        by_case, by_voxel = (
            tuple(tuple(matrix[i][j] for j in places) for i in places) for matrix in (self.by_case, self.by_voxel)
        )
        return ErrorCorrelation(members=tuple(members), by_case=by_case, by_voxel=by_voxel)

    def with_others(self, member: str) -> float | None:
        """Return the mean correlation by voxel with the other members; None where there is none to speak of."""
        place = self.members.index(member)
        others = [v for j, v in enumerate(self.by_voxel[place]) if j != place and v is not None]
        return sum(others) / len(others) if others else None


def contributions(predictions: Predictions, votes: Votes, alone: Alone) -> tuple[Contribution, ...]:
    """Return a row per member of a choice, with intervals by group."""
    together = dice_per_case(predictions, votes, alone=alone)
    without = {member: {name: own for name, own in votes.items() if name != member} for member in votes}
    return tuple(
        Contribution(
            member=member,
            votes=weight,
            alone=summarise(alone.of(member), groups=predictions.groups),
            contribution=paired_bootstrap(
                together, dice_per_case(predictions, rest, alone=alone), groups=predictions.groups
            )
            if (rest := without[member])
            else summarise([]),
        )
        for member, weight in votes.items()
    )


def error_correlation(alone: Alone) -> ErrorCorrelation:
    """Return how alike the errors of all members are."""
    share = np.diagonal(alone.wrong) / alone.voxels
    covariance = alone.wrong / alone.voxels - np.outer(share, share)
    risk = 1 - alone.dice
    centred = risk - risk.mean(1, keepdims=True)
    by_case = centred @ centred.T / risk.shape[1]
    return ErrorCorrelation(members=alone.members, by_case=_correlation(by_case), by_voxel=_correlation(covariance))


def _correlation(covariance: NDArray[np.float64]) -> Matrix:
    spread = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    return tuple(
        tuple(
            float(np.clip(value / (a * b), -1, 1)) if min(a, b) > 1e-12 else None
            for value, b in zip(row, spread, strict=True)
        )
        for row, a in zip(covariance, spread, strict=True)
    )
