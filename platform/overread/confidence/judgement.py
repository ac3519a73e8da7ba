"""What a package knows about its own scores: predicted Dice and lower bound of a case, per class and of their mean.

The regressor of each target (the class mean, and every class) is fitted on cases that trained no member (the
validation fold), its bound on the calibration groups alone, and both go into `confidence.json` of the package. A case
that is never safe (`scores.never_safe`), and a class that no reading has, get neither, since a miss that all members
share looks like agreement; nor does a class of which it is not known whether the only reading has it.

What is promised, to a case of a new group like those of the calibration, is what the calibration cases were:
- of the class mean: that its Dice is at or above the bound, among the cases that are not never safe;
- of a class: that its Dice is, among the cases in which a reading has the class and mask or truth has it, too (in
  others there is no Dice). It is no promise for the cases whose truth has the class: those where all members missed it
  have no bound;
- each target by itself: that all bounds of one case hold together has a lower chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from overread.confidence.combined import DiceRegressor, Scores, fit_regressor
from overread.confidence.conformal import (
    COVERAGE,
    Judged,
    LowerBound,
    MeasuredCoverage,
    Predicted,
    Shift,
    fit_lower_bound,
    measured_coverage,
    one_per_group,
    resplit_coverage,
    score_shift,
)
from overread.confidence.scores import SCORES, never_safe
from overread.jsonio import JsonRecord
from overread.records import CaseConfidence

MEAN = "mean"
"""Target: the class-mean Dice."""
CLASS = "class:"
"""Start of the other targets, `class:<label>`, so that a label may be named `mean`."""
ANCHOR = "pairwise_dice"
"""The score that the others must prove themselves against: the best failure detector of Zenk et al. (2024)."""
VOLUME = "volume_"
"""The regressor's score of the size of the mask: its unit follows, and it is a decimal logarithm."""


@dataclass(frozen=True)
class Known:
    """A case read by the package, with its true Dice."""

    row: CaseConfidence
    group: str
    dice: float
    dice_per_class: Mapping[str, float | None]
    """By label name; None: in neither prediction nor truth."""

    def true(self, target: str) -> float | None:
        """Return the true Dice of a target."""
        return self.dice if target == MEAN else self.dice_per_class.get(target.removeprefix(CLASS))


@dataclass(frozen=True, kw_only=True)
class Judge(JsonRecord):
    """Regressor and bound of one target. None: too few validation groups, or no score that varies."""

    regressor: DiceRegressor | None
    bound: LowerBound


@dataclass(frozen=True, kw_only=True)
class Judgement(JsonRecord):
    """`confidence.json` of a package."""

    winners: str
    """Fingerprint of the winners whose readings it was fitted on."""
    coverage: float
    targets: dict[str, Judge]
    calibration: tuple[float, ...]
    """Predicted mean Dice of one case of each calibration group: what new cases are held against."""
    unscored: int | None = None
    """Calibration groups of which no case has one. None: of an earlier version."""

    def judge(self, row: CaseConfidence) -> CaseConfidence:
        """Return the row with predicted Dice and bounds."""
        labels = tuple(row.relation_confidence_per_class)
        predicted = {target: self._predict(row, target) for target in (MEAN, *map(_target, labels))}
        bounds = {t: self.targets[t].bound.of(value) if t in self.targets else None for t, value in predicted.items()}
        return replace(
            row,
            predicted_dice=predicted[MEAN],
            dice_lower_bound=bounds[MEAN],
            predicted_dice_per_class={label: predicted[_target(label)] for label in labels},
            dice_lower_bound_per_class={label: bounds[_target(label)] for label in labels},
        )

    def measure(self, cases: Sequence[Known]) -> dict[str, MeasuredCoverage]:
        """Return how often the bound of each target held on cases that fitted nothing, by target."""
        return {
            target: measured_coverage(judge.bound, judged(judge.regressor, cases, target))
            for target, judge in self.targets.items()
        }

    def remeasure(self, calibration: Sequence[Known], others: Sequence[Known], repeats: int = 200) -> dict[str, float]:
        """Return the mean coverage over random divisions of all groups, as many calibrating as did; by target.

        The regressors stay as they are. Targets without a bound, or without other groups, are left out. It is near
        `MeasuredCoverage.expected` for any package (`conformal.resplit_coverage`): a check of the quantile alone.
        """
        found = {}
        for target, judge in self.targets.items():
            cases = judged(judge.regressor, [*calibration, *others], target)
            groups = len({case.group for case in cases})
            if judge.bound.quantile is not None and groups > judge.bound.groups:
                found[target] = float(np.mean(resplit_coverage(cases, judge.bound.groups, self.coverage, repeats)))
        return found

    def shift(self, rows: Sequence[CaseConfidence], groups: Sequence[str] | None = None) -> Shift | None:
        """Return how far the predicted Dice of new cases is from that of the calibration groups.

        `groups` names the patient of each row, where it is known ('' or None: the case is its own).
        """
        given = [None] * len(rows) if groups is None else groups
        found = [(r.case, group or r.case, self._predict(r, MEAN)) for r, group in zip(rows, given, strict=True)]
        cases = [Predicted(case, group, value) for case, group, value in found if value is not None]
        without = len({group for _, group, _ in found} - {case.group for case in cases})
        return score_shift(self.calibration, cases, unscored=self.unscored, new_unscored=without)

    def _predict(self, row: CaseConfidence, target: str) -> float | None:
        judge = self.targets.get(target)
        return predicted_dice(judge.regressor, row, target) if judge else None


def fit_judgement(
    validation: Sequence[Known],
    calibration: Sequence[Known],
    label_names: Sequence[str],
    *,
    winners: str,
    coverage: float = COVERAGE,
) -> Judgement:
    """Fit regressors on `validation` and bounds on `calibration`, which share no group; labels with the background."""
    regressors = {target: _fit_target(validation, target) for target in (MEAN, *map(_target, label_names[1:]))}
    return _calibrated(regressors, calibration, winners, coverage)


def refit_bounds(judgement: Judgement, calibration: Sequence[Known], *, winners: str, coverage: float) -> Judgement:
    """Return a judgement for other readings of the same kind: its regressors as they are, the bounds fitted anew.

    What a bound promises holds for any regressor that the calibration groups did not fit; one of other readings only
    makes it wider.
    """
    regressors = {target: judge.regressor for target, judge in judgement.targets.items()}
    return _calibrated(regressors, calibration, winners, coverage)


def _calibrated(
    regressors: Mapping[str, DiceRegressor | None], calibration: Sequence[Known], winners: str, coverage: float
) -> Judgement:
    cases = {target: judged(regressor, calibration, target) for target, regressor in regressors.items()}
    reference = one_per_group(cases[MEAN])
    return Judgement(
        winners=winners,
        coverage=coverage,
        targets={t: Judge(regressor=r, bound=fit_lower_bound(cases[t], coverage)) for t, r in regressors.items()},
        calibration=tuple(sorted(case.predicted for case in reference)),
        unscored=len({case.group for case in calibration} - {case.group for case in reference}),
    )


def judged(regressor: DiceRegressor | None, cases: Sequence[Known], target: str) -> list[Judged]:
    """Return the cases that have both a predicted and a true Dice of the target."""
    pairs = [(case, predicted_dice(regressor, case.row, target), case.true(target)) for case in cases]
    return [Judged(c.row.case, c.group, p, d) for c, p, d in pairs if p is not None and d is not None]


def predicted_dice(regressor: DiceRegressor | None, row: CaseConfidence, target: str) -> float | None:
    """Return the predicted Dice of a target; None where agreement says nothing (see the module's text)."""
    scores = _scores(row, target)
    return None if regressor is None or scores is None else regressor.predict(scores)


def shift_warning(shift: Shift | None) -> str | None:
    """Return the warning about shifted scores in one sentence, None if there is nothing to tell."""
    if shift is None or not shift.told:
        return None
    found = []
    if shift.moved:
        compared = f"{shift.cases} cases" + (f" ({shift.n} groups)" if shift.n < shift.cases else "")
        found.append(
            f"the predicted Dice of these {compared} differ from those of the calibration (Kolmogorov-Smirnov "
            f"{shift.statistic:.2f}, p = {shift.p:.2g}; mean distance {shift.wasserstein:.3f})"
        )
    if shift.vanished:
        found.append(
            f"{shift.unscored} of {shift.unscored + shift.n} groups have no case with a predicted Dice, more than in "
            f"the calibration (Fisher, p = {shift.unscored_p:.2g})"
        )
    return " and ".join(found) + (
        ": the lower bounds may not hold, so check some cases by hand or calibrate on data like these"
    )


def _target(label: str) -> str:
    return CLASS + label


def _scores(row: CaseConfidence, target: str) -> Scores | None:
    """Return the scores that predict a target; None where agreement says nothing."""
    if never_safe(row.flag):
        return None
    if target == MEAN:
        relation, pairwise = row.relation_confidence, row.pairwise_dice
        volume, components = sum(row.volume_per_class.values()), sum(row.components_per_class.values())
    else:
        label = target.removeprefix(CLASS)
        if _may_be_absent(row, label):
            return None
        relation, pairwise = row.relation_confidence_per_class.get(label), row.pairwise_dice_per_class.get(label)
        volume, components = row.volume_per_class.get(label, 0.0), row.components_per_class.get(label, 0)
    own = {"relation_confidence": relation, "pairwise_dice": pairwise, "foreground": row.foreground}
    if row.volume_unit:
        # The order of magnitude counts, not the litre, and unlike units share no column. An empty mask has neither size
        # nor parts: with 0 parts, where fewer are better, it would look safer than any finding.
        own[f"{VOLUME}{row.volume_unit}"] = math.log10(volume) if volume > 0 else None
        own["components"] = float(components) if components else None
    return own | dict(row.scores)


def _may_be_absent(row: CaseConfidence, label: str) -> bool:
    """Return whether no reading has a class, or the only reading may not have it."""
    if row.absent is not None:
        return label in row.absent
    return row.relation_confidence_per_class.get(label) is None  # as of every class of a single reading


def _fit_target(cases: Sequence[Known], target: str) -> DiceRegressor | None:
    found = [(_scores(case.row, target), case.true(target), case.group) for case in cases]
    rows = [(scores, dice, group) for scores, dice, group in found if scores is not None and dice is not None]
    falling = {name for name in SCORES if not SCORES[name].rises_with_quality}
    free = {name for scores, _, _ in rows for name in scores if name in falling or name.startswith(VOLUME)}
    return fit_regressor(
        [scores for scores, _, _ in rows],
        [dice for _, dice, _ in rows],
        groups=[group for _, _, group in rows],
        either_sign=sorted(free),
        anchor=ANCHOR,
    )
