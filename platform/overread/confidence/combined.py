"""All scores of a case combined into one predicted Dice, by a small regressor that no score can turn around.

A ridge regression of the true Dice on the standardised scores, with coefficients of at least 0 (non-negative least
squares, Lawson and Hanson 1974): most scores rise with quality by their definition, so that a higher one never lowers
the prediction, whatever a few validation cases suggest. A figure whose sign nobody knows beforehand (how far annotators
would differ, how large a finding is, how probable its surest voxel) enters with both signs (`either_sign`).

The penalty is the one of `PENALTIES` with the least squared error on groups that were left out. One score may be the
`anchor`, the best ranking known beforehand: it pays no penalty, and the penalty is then the largest whose error is not
proved to be above the least (one-sided paired t test by group, at 5 %). So the other scores move cases past each other
only as far as the cases fitted on prove it, and where they do not, the ranking stays that of the anchor.

Of a figure that has either sign, a value beyond those fitted on counts as the nearest of them: what larger findings
gained within a data set says nothing of one that a bad image shrank to a tenth. The others are taken as they are, so
that cases stay apart; only below 0 and above 1 all predictions are alike.

The least of several errors is too low a figure to promise, so the error that is told is of nested cross-validation by
group: each part of the groups is predicted by a fit to the others, whose penalty these others alone have chosen.

A score may be missing (None). Where that happened in the cases fitted on, a missing score stands for their mean and
costs what the gaps were worth there, never less than nothing and, as any level, without the penalty, which would make
rare gaps cheap; a gap not seen before takes the value seen that predicts
least (the lowest, or of a score that falls with the Dice the highest): what is not known does not make a case safer. A
case with none of the scores has no prediction.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import stdtrit

from overread.jsonio import JsonRecord
from overread.metrics.summary import group_places, standard_error

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Per case: of the squared coefficients, where all scores have spread 1."""
GAP_PENALTY = 1e-6
"""Divides the cost of gaps that are always seen together evenly among their scores; too small to make any cheaper."""
PROOF = 0.95
"""Confidence at which the other scores must be better than the anchor alone: one standard error let chance in."""
LEAST_GROUPS = 5
PARTS = 10
"""At most so many parts of the groups are left out in turn."""
Scores = Mapping[str, float | None]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Weighted(JsonRecord):
    """One score in the regressor."""

    name: str
    mean: float
    spread: float
    lowest: float
    """Of the cases fitted on, as are mean and spread (standard deviation)."""
    highest: float | None = None
    """As `lowest`; None: fitted by a version that did not tell it."""
    coefficient: float
    """Dice per spread."""
    gap: float | None
    """Dice of a missing score relative to its mean, at most 0; None: it was missing in no case."""
    bounded: bool = False
    """Whether values beyond `lowest` and `highest` count as these: for scores that may have either sign."""

    def part(self, value: float | None) -> float:
        """Return what the score adds to the prediction."""
        if value is None and self.gap is not None:
            return self.gap
        known = self._worst() if value is None else self._within(value)
        return self.coefficient * (known - self.mean) / self.spread

    def _within(self, value: float) -> float:
        if not self.bounded or self.highest is None:
            return value
        return min(max(value, self.lowest), self.highest)

    def _worst(self) -> float:
        """Return the value of the cases fitted on that predicts least."""
        if self.coefficient >= 0:
            return self.lowest
        return self.mean if self.highest is None else self.highest


@dataclass(frozen=True, kw_only=True)
class DiceRegressor(JsonRecord):
    """Predicts the Dice of a case from its scores; made by `fit_regressor`."""

    intercept: float
    scores: tuple[Weighted, ...]
    penalty: float
    anchor: str | None = None
    """The score without a penalty, if there was one."""
    cases: int
    groups: int
    error: float
    """Mean absolute error on groups left out, which chose neither coefficients nor penalty of their prediction."""
    error_of_mean: float
    """That of predicting the mean Dice of the other groups: what the scores must beat to be worth anything."""

    def predict(self, scores: Scores) -> float | None:
        """Return the predicted Dice in 0..1; None if all scores are missing."""
        return _predict(self.intercept, self.scores, scores)


def _predict(intercept: float, weighted: tuple[Weighted, ...], scores: Scores) -> float | None:
    if all(scores.get(own.name) is None for own in weighted):
        return None
    total = intercept + sum(own.part(scores.get(own.name)) for own in weighted)
    return min(max(total, 0.0), 1.0)


@dataclass(frozen=True)
class _Design:
    """Columns of the regression: each score (falling ones a second time, negated), then minus its gaps."""

    mean: Floats
    spread: Floats
    lowest: Floats
    highest: Floats
    gaps: NDArray[np.bool_]
    """Which scores were missing in a case fitted on."""
    both: NDArray[np.bool_]
    """Which scores may have either sign."""

    def columns(self, values: Floats) -> Floats:
        """Return the columns of the cases fitted on (n, scores), NaN where missing."""
        missing = np.isnan(values)
        filled = np.where(missing, self.mean, values)
        standard = (filled - self.mean) / self.spread
        return np.hstack([standard, -standard[:, self.both], -missing[:, self.gaps].astype(np.float64)])


def fit_regressor(
    scores: Sequence[Scores],
    dice: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    either_sign: Sequence[str] = (),
    anchor: str | None = None,
) -> DiceRegressor | None:
    """Return the regressor of validation cases, or None if they are of fewer than `LEAST_GROUPS` groups.

    Scores that fewer than half of the cases have, or that are constant, are left out; None if none is left.

    Args:
        scores: By name, per case.
        dice: True Dice per case.
        groups: Per case; cases of one group are left out together. None: each is its own.
        either_sign: Names of scores that need not rise with the Dice.
        anchor: Name of the score that ranks best by what is known beforehand; without it if it is left out.

    """
    truth = np.asarray(dice, dtype=np.float64)
    places = group_places(range(len(dice)) if groups is None else groups)
    if not len(scores) == len(dice) == len(places):
        raise ValueError(f"each case must have scores, Dice and group, but got {len(scores), len(dice), len(places)}")
    count = int(places.max()) + 1 if len(places) else 0
    names = _usable(scores)
    if count < LEAST_GROUPS or not names:
        return None
    anchor = anchor if anchor in names else None
    cases = _Cases(names, _table(scores, names), truth, places, frozenset(either_sign), anchor)
    penalty = cases.best_penalty()
    parts = cases.parts()
    means = np.array([truth[parts != part].mean() for part in parts])
    intercept, weighted = cases.fit(penalty)
    return DiceRegressor(
        intercept=intercept,
        scores=weighted,
        penalty=penalty,
        anchor=anchor,
        cases=len(truth),
        groups=count,
        error=float(np.abs(cases.left_out() - truth).mean()),
        error_of_mean=float(np.abs(means - truth).mean()),
    )


def _usable(scores: Sequence[Scores]) -> tuple[str, ...]:
    """Return the names of the scores that say something about these cases."""
    names = dict.fromkeys(name for row in scores for name in row)
    known = {name: [value for row in scores if (value := row.get(name)) is not None] for name in names}
    return tuple(name for name, found in known.items() if 2 * len(found) >= len(scores) and np.ptp(found) > 1e-12)


def _table(scores: Sequence[Scores], names: Sequence[str]) -> Floats:
    """Return (cases, scores), NaN where missing."""
    return np.array([[np.nan if row.get(n) is None else row[n] for n in names] for row in scores], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Cases:
    """The cases of a regression: n cases with scores (n, names), NaN where missing."""

    names: tuple[str, ...]
    values: Floats
    truth: Floats
    places: NDArray[np.intp]
    """Number of each case's group."""
    either_sign: frozenset[str]
    anchor: str | None

    def chosen(self, inside: NDArray[np.bool_]) -> _Cases:
        return replace(self, values=self.values[inside], truth=self.truth[inside], places=self.places[inside])

    def parts(self) -> NDArray[np.intp]:
        """Return the part of each case: whole groups, by turns in the order of their numbers."""
        found, places = np.unique(self.places, return_inverse=True)
        return np.asarray(places % min(PARTS, len(found)), dtype=np.intp)

    def best_penalty(self) -> float:
        """Return the penalty of least squared error on parts left out; with an anchor the largest not proved worse."""
        errors = {penalty: (self.left_out(penalty) - self.truth) ** 2 for penalty in PENALTIES}
        least = min(PENALTIES, key=lambda penalty: float(errors[penalty].mean()))
        if self.anchor is None:
            return least
        places = group_places(self.places.tolist())
        limit = float(stdtrit(places.max(), PROOF))  # groups less 1 degrees of freedom
        worse = {penalty: found - errors[least] for penalty, found in errors.items()}
        return max(p for p, more in worse.items() if float(more.mean()) <= limit * standard_error(more, places))

    def left_out(self, penalty: float | None = None) -> Floats:
        """Return the prediction of each case by a fit without its part; None: that fit's cases choose the penalty."""
        predicted, parts = np.empty_like(self.truth), self.parts()
        for part in np.unique(parts):
            inside = parts == part
            others = self.chosen(~inside)
            intercept, weighted = others.fit(others.best_penalty() if penalty is None else penalty)
            for i in np.flatnonzero(inside):
                row = {n: None if np.isnan(v) else float(v) for n, v in zip(self.names, self.values[i], strict=True)}
                found = _predict(intercept, weighted, row)
                predicted[i] = others.truth.mean() if found is None else found
        return predicted

    def fit(self, penalty: float) -> tuple[float, tuple[Weighted, ...]]:
        """Return intercept and weighted scores: penalised non-negative least squares on centred columns."""
        design = _design(self.names, self.values, self.either_sign)
        columns, truth = design.columns(self.values), self.truth
        centre = columns.mean(0)
        ridge = np.sqrt(penalty * len(truth)) * np.eye(columns.shape[1])
        if self.anchor is not None:
            ridge[self.names.index(self.anchor)] = 0.0
        gap_columns = np.arange(columns.shape[1] - int(design.gaps.sum()), columns.shape[1])
        ridge[gap_columns, gap_columns] = np.sqrt(GAP_PENALTY * len(truth))
        system = np.vstack([columns - centre, ridge])
        solution, _ = nnls(system, np.concatenate([truth - truth.mean(), np.zeros(len(ridge))]))
        count, twice = len(self.names), int(design.both.sum())
        coefficients = solution[:count].copy()
        coefficients[design.both] -= solution[count : count + twice]
        gaps: list[float | None] = [None] * count
        for place, cost in zip(np.flatnonzero(design.gaps), solution[count + twice :], strict=True):
            gaps[place] = -float(cost)
        weighted = tuple(
            Weighted(
                name=name,
                mean=float(design.mean[i]),
                spread=float(design.spread[i]),
                lowest=float(design.lowest[i]),
                highest=float(design.highest[i]),
                coefficient=float(coefficients[i]),
                gap=gaps[i],
                bounded=name in self.either_sign,
            )
            for i, name in enumerate(self.names)
        )
        return float(truth.mean() - centre @ solution), weighted


def _design(names: tuple[str, ...], values: Floats, either_sign: Collection[str]) -> _Design:
    mean, lowest, highest = (np.zeros(len(names)) for _ in range(3))
    spread = np.ones(len(names))
    for i, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        if len(known):  # all of a score may be among the cases left out
            mean[i], lowest[i], highest[i] = known.mean(), known.min(), known.max()
            spread[i] = known.std() if known.std() > 1e-12 else 1.0
    gaps = np.asarray(np.isnan(values).any(axis=0))
    return _Design(mean, spread, lowest, highest, gaps, np.array([name in either_sign for name in names]))
