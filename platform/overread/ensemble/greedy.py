"""Greedy forward selection with replacement (Caruana et al. 2004), on validation predictions.

The best single member starts; each round adds the member whose vote raises the mean Dice of the soft vote most; a
member already in may come again, its weight then grows. Differs from the paper: no bagging and no sorted start of
several members, and the selection ends when the best gain is within noise, that is not above `noise` paired standard
errors (by group, as cases of a patient are alike), instead of after a fixed number of rounds. Among gains that are
equal within `TIE`, a member already in is taken first, since it costs nothing to read, then the one that adds least.
While there are fewer than `least` members only new ones come in, and a member that would leave too little of the budget
for the rest of the least number does not: the least number is of different members wherever the budget fits so many.

The running vote lies in a scratch folder, one file per case: in memory are the vote and one candidate of one case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.ensemble.candidates import Costs, Predictions, cost_of, dice_of, fits
from overread.ensemble.fusion import Probabilities
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.summary import group_places, standard_error

ROUNDS = 20
NOISE = 1.0
TIE = 1e-6
FLOOR = 1e-3
"""Least weight of a member for a class, the highest being 1: a class whose voters all failed is left to the rest."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GreedySettings:
    """How a selection is made."""

    rounds: int = ROUNDS
    """Most votes."""
    noise: float = NOISE
    """A gain counts above so many paired standard errors; 0: any gain above 0."""
    least: int = 1
    """Members that are taken whatever they gain, as far as the budget goes: relations need readings."""
    most: int | None = None
    """Members at the most; None: any number."""
    label: int | None = None
    """Class id whose Dice is raised; None: the class mean."""
    cost: Costs | None = None
    """Of each member's parts per case; a part is paid once, whatever the votes and the members that read with it."""
    budget: float | None = None
    """Most cost of all members together."""
    taken: tuple[str, ...] = ()
    """Members that are in already, for another class: they are paid for and count among the least and the most."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.least < 1 or self.noise < 0:
            raise UserError(
                f"rounds and least must be at least 1 and noise at least 0, but got {self.rounds}, {self.least} "
                f"and {self.noise:g}"
            )
        if self.budget is not None and self.cost is None:
            raise UserError("a budget needs the cost of every member, but none was given")


@dataclass(frozen=True, kw_only=True)
class Round(JsonRecord):
    """One vote given."""

    member: str
    dice: float
    """Mean Dice of the ensemble with this vote."""
    gain: float | None
    """None in the first round."""
    error: float | None
    """Paired standard error of the gain."""


@dataclass(frozen=True, kw_only=True)
class Selection(JsonRecord):
    """The result, with every round, and why it ended."""

    votes: dict[str, float]
    """In order of entry."""
    dice: float
    rounds: tuple[Round, ...]
    cost: float | None
    ended: str


class _Running:
    """The sum of the votes so far, (K, *S) float32 per case, in files."""

    def __init__(self, predictions: Predictions, folder: Path) -> None:
        self.predictions, self._folder = predictions, folder
        self._votes = 0

    def with_vote(self, member: str, case: str) -> Probabilities:
        """Return the sum with one more vote; its argmax is that of the mean."""
        own = self.predictions.probabilities(member, case)
        if not self._votes:
            return np.array(own, dtype=np.float32)
        total = np.array(np.load(self._path(case), mmap_mode="r"), dtype=np.float32)
        total += own
        return total

    def score(self, member: str, label: int | None) -> Floats:
        """Return the Dice of every case with one more vote."""
        cases = self.predictions.cases
        return np.array([dice_of(self.with_vote(member, c), self.predictions.truth(c), label) for c in cases])

    def add(self, member: str) -> None:
        """Keep the vote."""
        for case in self.predictions.cases:
            total = self.with_vote(member, case)
            np.save(self._path(case), total)
        self._votes += 1

    def _path(self, case: str) -> Path:
        return self._folder / f"{self.predictions.cases.index(case)}.npy"


def select_greedily(
    predictions: Predictions, settings: GreedySettings | None = None, scratch: Path | None = None
) -> Selection:
    """Return the votes of an ensemble; a budget that no member fits raises `UserError`.

    The running vote, (K, *S) float32 per case, is kept in a folder of its own in `scratch` (None: the system's).
    """
    settings = settings or GreedySettings()
    _check_costs(predictions, settings)
    places = group_places(predictions.groups)
    least = _least_that_fits(predictions.members, settings)
    votes: dict[str, float] = {}
    rounds: list[Round] = []
    current = np.zeros(len(predictions.cases))
    with tempfile.TemporaryDirectory(prefix=".votes-", dir=scratch) as folder:
        running = _Running(predictions, Path(folder))
        ended = f"all {settings.rounds} votes are given"
        while len(rounds) < settings.rounds:
            candidates = _candidates(predictions.members, votes, settings, least)
            scores = {member: running.score(member, settings.label) for member in candidates}
            member = _best(scores, votes, settings)
            difference = scores[member] - current
            gain, error = float(difference.mean()), standard_error(difference, places)
            enough = bool(votes) and len(_paid(votes, settings)) >= least
            if enough and gain <= max(settings.noise * error, TIE):
                ended = f"the best gain {gain:.4f} is within noise (standard error {error:.4f})"
                break
            running.add(member)
            votes[member] = votes.get(member, 0.0) + 1
            current = scores[member]
            first = not rounds
            rounds.append(
                Round(
                    member=member,
                    dice=float(current.mean()),
                    gain=None if first else gain,
                    error=None if first else error,
                )
            )
    if least < (wanted := _least_wanted(predictions.members, settings)):
        ended = f"the budget fits {least} of at least {wanted} members; {ended}"
    cost = None if settings.cost is None else cost_of(votes, settings.cost)
    return Selection(votes=votes, dice=float(current.mean()), rounds=tuple(rounds), cost=cost, ended=ended)


def select_per_class(
    predictions: Predictions, classes: int, settings: GreedySettings | None = None, scratch: Path | None = None
) -> dict[int, Selection]:
    """Return a selection for each foreground class id, by the Dice of that class; `class_weights` joins them.

    Budget and number of members are those of all classes together. The classes choose in the order of their ids, and
    what one has taken costs the next nothing: the first class brings in the least number.
    """
    settings = settings or GreedySettings()
    chosen: dict[int, Selection] = {}
    for label in range(1, classes):
        chosen[label] = select_greedily(predictions, replace(settings, label=label), scratch)
        settings = replace(settings, taken=tuple(dict.fromkeys([*settings.taken, *chosen[label].votes])))
    return chosen


def class_weights(chosen: Mapping[int, Selection], classes: int) -> dict[str, tuple[float, ...]]:
    """Return the weights (K,) of every member of selections per class, the highest of each foreground class 1.

    Each is at least `FLOOR`. The background is weighted as the mean of the classes.
    """
    members = dict.fromkeys(member for selection in chosen.values() for member in selection.votes)
    weights = {member: np.full(classes, FLOOR) for member in members}
    for label, selection in chosen.items():
        highest = max(selection.votes.values())
        for member, votes in selection.votes.items():
            weights[member][label] = max(FLOOR, votes / highest)
    for own in weights.values():
        own[0] = own[1:].mean()
    return {member: tuple(round(float(value), 6) for value in own) for member, own in weights.items()}


def _paid(votes: Mapping[str, float], settings: GreedySettings) -> list[str]:
    """Return all members that are in, for any class."""
    return [*votes, *(member for member in settings.taken if member not in votes)]


def _least_wanted(members: Sequence[str], settings: GreedySettings) -> int:
    return min(settings.least, len(members), settings.most or len(members))


def _least_that_fits(members: Sequence[str], settings: GreedySettings) -> int:
    """Return the least number of members, or as many different ones as the budget fits."""
    wanted = _least_wanted(members, settings)
    return next((n for n in range(wanted, 1, -1) if _completes(settings.taken, members, n, settings)), min(wanted, 1))


def _completes(paid: Sequence[str], members: Sequence[str], number: int, settings: GreedySettings) -> bool:
    """Return whether the budget fits any `number` different members with those paid among them."""
    others = [member for member in members if member not in paid]
    missing = max(0, number - len(paid))
    return any(fits([*paid, *more], settings.cost, settings.budget) for more in combinations(others, missing))


def _candidates(members: Sequence[str], votes: Mapping[str, float], settings: GreedySettings, least: int) -> list[str]:
    """Return who may get the next vote; never nobody."""
    paid = _paid(votes, settings)
    full = settings.most is not None and len(paid) >= settings.most
    unpaid = [] if full else [member for member in members if member not in paid]
    new = [member for member in unpaid if _completes([*paid, member], members, least, settings)]
    return new if len(paid) < least else [*paid, *new]


def _best(scores: Mapping[str, Floats], votes: Mapping[str, float], settings: GreedySettings) -> str:
    means = {member: float(values.mean()) for member, values in scores.items()}
    highest = max(means.values())
    tied = [member for member, mean in means.items() if mean >= highest - TIE]
    paid = _paid(votes, settings)

    def price(member: str) -> tuple[bool, float]:
        return member not in paid, cost_of([*paid, member], settings.cost) if settings.cost is not None else 0.0

    return min(tied, key=price)  # min keeps the first of equals


def _check_costs(predictions: Predictions, settings: GreedySettings) -> None:
    if settings.cost is None:
        return
    unknown = [member for member in predictions.members if member not in settings.cost]
    if unknown:
        raise UserError(f"every member must have a cost, but {', '.join(unknown)} has none: give all or none")
    cheapest = min(cost_of([member], settings.cost) for member in predictions.members)
    if settings.budget is not None and cheapest > settings.budget:
        raise UserError(f"the budget must fit a member, but {settings.budget:g} is below the cheapest ({cheapest:g})")
