"""The rates that papers tabulate (U-Netmer, Table II), per case, class and merged foreground, and their summaries.

Each is a formula of `overlap` on the four counts of a binary mask: a class against the rest, or all foreground classes
merged against the background. A mask empty in prediction and truth has a Jaccard and Dice of 1, in one of them 0.
A share of nothing is undefined (None), and left out of the mean and of its n: sensitivity where the truth is empty,
specificity where the truth fills the image, precision where nothing is predicted. (`case_values` counts these as 1 or
0 instead, and leaves out classes that are absent: that is what trials are ranked by, this is what papers print.)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from overread.jsonio import JsonRecord
from overread.metrics.overlap import METRICS, Counts, Ids, class_counts
from overread.metrics.summary import ForegroundSplit, split_by_foreground

RATES = ("jaccard", "dice", "accuracy", "sensitivity", "specificity", "precision")
"""In the order of the paper's table, which has no precision."""
Rates = dict[str, float | None]
"""By name of the rate; None: undefined."""
RateSummary = dict[str, ForegroundSplit]
"""By name of the rate: all cases, and apart those whose truth has the class."""


@dataclass(frozen=True, kw_only=True)
class CaseCounts:
    """One case: the counts that all its rates come from."""

    case: str
    foreground: Counts
    """All foreground classes merged: confusing two of them is no error here."""
    per_class: dict[str, Counts]
    """By label name, each foreground class against the rest."""


@dataclass(frozen=True, kw_only=True)
class RatesTable(JsonRecord):
    """Summaries over cases, each with its own n."""

    foreground: RateSummary
    per_class: dict[str, RateSummary]
    """By label name."""


def count_case(case: str, prediction: Ids, truth: Ids, label_names: Sequence[str]) -> CaseCounts:
    """Return the counts of masks of class ids of equal shape; `label_names` are by class id, background first."""
    background, *classes = class_counts(prediction, truth, len(label_names))
    per_class = dict(zip(label_names[1:], classes, strict=True))
    return CaseCounts(case=case, foreground=background.complement, per_class=per_class)


def rates(counts: Counts) -> Rates:
    """Return all `RATES` of one binary mask."""
    return {name: METRICS[name].strict(counts) for name in RATES}


def rates_table(cases: Sequence[CaseCounts], groups: Sequence[Hashable] | None = None, seed: int = 0) -> RatesTable:
    """Return mean, sample standard deviation, n and interval of all rates; `groups` names the group of each case."""
    labels = cases[0].per_class if cases else ()
    return RatesTable(
        foreground=_summary([case.foreground for case in cases], groups, seed),
        per_class={label: _summary([case.per_class[label] for case in cases], groups, seed) for label in labels},
    )


def _summary(counts: Sequence[Counts], groups: Sequence[Hashable] | None, seed: int) -> RateSummary:
    rows = [rates(c) for c in counts]
    truth_has, prediction_has = [c.in_truth for c in counts], [c.predicted for c in counts]
    return {
        name: split_by_foreground([row[name] for row in rows], truth_has, prediction_has, seed, groups)
        for name in RATES
    }
