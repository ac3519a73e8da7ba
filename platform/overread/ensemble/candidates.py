"""Validation predictions of the candidates for an ensemble, one array at a time, and the Dice of any choice of them.

A choice is a dict of votes by member name (how often a member was taken, or its weight). Never more than one member's
probabilities are in memory beside the running vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from overread.ensemble.fusion import Probabilities, SoftVote
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.overlap import Ids, case_dice
from overread.metrics.summary import Summary, paired_bootstrap, summarise

Votes = Mapping[str, float]


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


def dice_per_case(predictions: Predictions, votes: Votes, label: int | None = None) -> list[float]:
    """Return the Dice of a choice on every case."""
    return [dice_of(fused(predictions, votes, case), predictions.truth(case), label) for case in predictions.cases]


@dataclass(frozen=True, kw_only=True)
class ChoiceRow(JsonRecord):
    """One choice in a comparison."""

    name: str
    votes: dict[str, float]
    dice: Summary
    against_single: Summary
    """Paired difference to the best single member."""
    cost: float | None


def compare_choices(
    predictions: Predictions, choices: Mapping[str, Votes], cost: Mapping[str, float] | None = None
) -> tuple[ChoiceRow, ...]:
    """Return the best single member, then `choices`, each with its Dice and interval by group.

    On the cases that choices were made by, the best of them is flattered: hold them against each other on other cases.
    """
    singles = {member: dice_per_case(predictions, {member: 1.0}) for member in predictions.members}
    best = max(singles, key=lambda member: float(np.mean(singles[member])))
    rows = []
    for name, votes in {"best single": {best: 1.0}, **choices}.items():
        dice = dice_per_case(predictions, votes)
        rows.append(
            ChoiceRow(
                name=name,
                votes=dict(votes),
                dice=summarise(dice, groups=predictions.groups),
                against_single=paired_bootstrap(dice, singles[best], groups=predictions.groups),
                cost=sum(cost[member] for member in votes) if cost is not None else None,
            )
        )
    return tuple(rows)


def top_k(predictions: Predictions, k: int) -> dict[str, float]:
    """Return one vote each for the k members of highest mean Dice; ties go by the order of the members."""
    dice = {member: float(np.mean(dice_per_case(predictions, {member: 1.0}))) for member in predictions.members}
    return dict.fromkeys(sorted(dice, key=lambda member: -dice[member])[:k], 1.0)
