"""Validation predictions of the candidates for an ensemble, one array at a time, and the Dice of any choice of them.

A choice is a dict of votes by member name: how often a member was taken, or its weight, or a weight per class. Never
more than one member's probabilities are in memory beside the running vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from overread.ensemble.fusion import Probabilities, SoftVote
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.overlap import Ids, case_dice
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.records import Vote

Votes = Mapping[str, Vote]
Costs = Mapping[str, Mapping[str, float]]
"""By member: what each part that it needs costs per case (milliseconds, parameters). Parts of one name are shared."""


class Predictions(Protocol):
    """What selection must know of the candidates; all read the same cases."""

    @property
    def members(self) -> Sequence[str]:
        """Names of the candidates."""
        ...

    @property
    def cases(self) -> Sequence[str]:
        """Case ids that trained no candidate."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """Group of each case."""
        ...

    def probabilities(self, member: str, case: str) -> Probabilities:
        """Return (K, *S), such as a memory-mapped array."""
        ...

    def truth(self, case: str) -> Ids:
        """Return the true class ids (*S)."""
        ...


@dataclass(frozen=True)
class StoredPredictions:
    """Probabilities in `<root>/<member>/<case>.npy` (float16 or float32), truths in `<root>/truth/<case>.npy`."""

    root: Path
    members: tuple[str, ...]
    cases: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.members or not self.cases or len(self.groups) != len(self.cases):
            found = f"{len(self.members)}, {len(self.cases)} and {len(self.groups)}"
            raise UserError(
                f"selection needs members, cases and a group per case, but there are {found}: search longer"
            )

    def probabilities(self, member: str, case: str) -> Probabilities:
        """Return (K, *S), memory-mapped; a missing or foreign file raises `UserError`."""
        return self._open(self.root / member / f"{case}.npy")

    def truth(self, case: str) -> Ids:
        """Return the true class ids (*S), memory-mapped."""
        return self._open(self.root / "truth" / f"{case}.npy")

    @staticmethod
    def _open(path: Path) -> np.ndarray:
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} must hold a prediction, but reading it failed ({error}): write it again") from None


def dice_of(probabilities: Probabilities, truth: Ids, label: int | None) -> float:
    """Return the class-mean Dice of a case, or that of class id `label`: both masks empty 1, one empty 0."""
    found = case_dice(np.argmax(probabilities, axis=0).astype(np.uint8), truth, len(probabilities))
    if label is None:
        return found.mean
    own = found.per_class[label - 1]
    return 1.0 if own is None else own


def fused(predictions: Predictions, votes: Votes, case: str) -> Probabilities:
    """Return the soft vote (K, *S) of a choice."""
    vote = SoftVote()
    for member, weight in votes.items():
        vote.add(predictions.probabilities(member, case), weight)
    return vote.mean()


def dice_per_case(
    predictions: Predictions, votes: Votes, label: int | None = None, alone: Alone | None = None
) -> list[float]:
    """Return the Dice of a choice on every case; that of one member is taken from `alone`, where that is given."""
    if alone is not None and label is None and len(votes) == 1:
        return alone.of(next(iter(votes)))
    return [dice_of(fused(predictions, votes, case), predictions.truth(case), label) for case in predictions.cases]


@dataclass(frozen=True)
class Alone:
    """Every candidate by itself, read once for all tables."""

    members: tuple[str, ...]
    dice: NDArray[np.float64]
    """(M, cases) class-mean Dice."""
    wrong: NDArray[np.int64]
    """(M, M) voxels of all cases at which both members are wrong."""
    voxels: int
    """Of all cases."""

    def of(self, member: str) -> list[float]:
        """Return the Dice of a member on every case."""
        return [float(value) for value in self.dice[self.members.index(member)]]

    def ranked(self) -> list[str]:
        """Return the members by falling mean Dice; ties go by their order."""
        means = self.dice.mean(1)
        return [self.members[place] for place in sorted(range(len(means)), key=lambda place: -means[place])]


def read_alone(predictions: Predictions) -> Alone:
    """Read every candidate on every case, once; memory is one bit per voxel and member of a case."""
    names = tuple(predictions.members)
    dice = np.zeros((len(names), len(predictions.cases)))
    both = np.zeros((len(names), len(names)), np.int64)
    voxels = 0
    for column, case in enumerate(predictions.cases):
        truth = predictions.truth(case)
        wrong = []
        for row, member in enumerate(names):
            probabilities = predictions.probabilities(member, case)
            dice[row, column] = dice_of(probabilities, truth, None)
            wrong.append(np.packbits(np.argmax(probabilities, axis=0) != truth))
        voxels += truth.size
        for i, first in enumerate(wrong):
            for j in range(i, len(names)):
                both[i, j] = both[j, i] = both[i, j] + int(np.bitwise_count(first & wrong[j]).sum(dtype=np.int64))
    return Alone(names, dice, both, voxels)


def cost_of(members: Iterable[str], costs: Costs) -> float:
    """Return what members cost together: each part once, however many members read with it.

    >>> cost_of(["a", "b"], {"a": {"network": 5.0}, "b": {"network": 5.0, "head": 1.0}})
    6.0
    """
    return sum({part: value for member in members for part, value in costs[member].items()}.values())


def fits(members: Iterable[str], costs: Costs | None, budget: float | None) -> bool:
    """Return whether members cost no more than the budget together; without one anything fits."""
    return budget is None or costs is None or cost_of(members, costs) <= budget + 1e-9


@dataclass(frozen=True, kw_only=True)
class ChoiceRow(JsonRecord):
    """One choice in a comparison."""

    name: str
    votes: dict[str, Vote]
    dice: Summary
    against_single: Summary
    """Paired difference to the best single member."""
    cost: float | None


def compare_choices(
    predictions: Predictions,
    choices: Mapping[str, Votes],
    alone: Alone,
    costs: Costs | None = None,
    budget: float | None = None,
) -> tuple[ChoiceRow, ...]:
    """Return the best single member that fits the budget, then `choices`, each with its Dice and interval by group.

    On the cases that choices were made by, the best of them is flattered: hold them against each other on other cases.
    """
    best = top_k(alone, 1, costs, budget)
    single = dice_per_case(predictions, best, alone=alone)
    rows = []
    for name, votes in {"best single": best, **choices}.items():
        dice = dice_per_case(predictions, votes, alone=alone)
        rows.append(
            ChoiceRow(
                name=name,
                votes=dict(votes),
                dice=summarise(dice, groups=predictions.groups),
                against_single=paired_bootstrap(dice, single, groups=predictions.groups),
                cost=cost_of(votes, costs) if costs is not None else None,
            )
        )
    return tuple(rows)


def top_k(alone: Alone, k: int, costs: Costs | None = None, budget: float | None = None) -> dict[str, Vote]:
    """Return one vote each for the k members of highest mean Dice; ties go by the order of the members.

    With a budget: from the best down, every member that still fits beside those taken, k at the most.
    """
    taken: list[str] = []
    for member in alone.ranked():
        if len(taken) < k and fits([*taken, member], costs, budget):
            taken.append(member)
    if not taken:
        raise UserError(f"the budget must fit a member, but {budget:g} fits none: give more")
    return dict.fromkeys(taken, 1.0)
