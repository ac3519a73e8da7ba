"""The rates that papers tabulate (U-Netmer, Table II), of the merged foreground of a case.

Each is a formula of `overlap` on the four counts of a binary mask: all foreground classes against the background. A
mask empty in prediction and truth has a Jaccard and Dice of 1, in one of them 0.
A share of nothing is undefined (None), and left out of the mean and of its n: sensitivity where the truth is empty,
specificity where the truth fills the image, precision where nothing is predicted. (`case_values` counts these as 1 or
0 instead, and leaves out classes that are absent: that is what trials are ranked by, this is what papers print.)
"""

from __future__ import annotations

from overread.metrics.overlap import METRICS, Counts, Ids, class_counts

RATES = ("jaccard", "dice", "accuracy", "sensitivity", "specificity", "precision")
"""In the order of the paper's table, which has no precision."""
Rates = dict[str, float | None]
"""By name of the rate; None: undefined."""


def foreground_counts(prediction: Ids, truth: Ids, classes: int) -> Counts:
    """Return the counts of all foreground classes merged: confusing two of them is no error here."""
    return class_counts(prediction, truth, classes)[0].complement


def rates(counts: Counts) -> Rates:
    """Return all `RATES` of one binary mask."""
    return {name: METRICS[name].strict(counts) for name in RATES}
