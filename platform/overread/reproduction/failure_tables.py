"""Tables of the failure benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from overread.confidence.combined import PENALTIES
from overread.confidence.conformal import expected_share
from overread.confidence.failure_detection import (
    FAILURE_DICE,
    Estimate,
    FailureDetection,
    PairedDifference,
    area_under_risk,
    aurc_difference,
    failure_detection,
)
from overread.confidence.judgement import MEAN
from overread.confidence.tied_order import TiedOrder
from overread.data.corruptions import CLEAN, CORRUPTIONS, STRENGTHS, conditions
from overread.metrics.summary import summarise
from overread.reproduction.failure_memory import memory_tables
from overread.reproduction.failure_methods import (
    COMBINED,
    ENSEMBLES,
    FIVE_ARCHITECTURES,
    FIVE_SEEDS,
    METHODS,
    PAIRWISE,
    SEEDS_ALONE,
    SHOWN,
    SINGLE,
    Bench,
    Method,
    Scored,
)
from overread.reproduction.failure_selection import selection_tables
from overread.reproduction.results import Findings
from overread.reproduction.writing import NOT_TRAINED, percent
from overread.review.tables import Grid
from overread.review.words import NOTHING, with_interval

THRESHOLDS = (FAILURE_DICE, 0.5)
"""A case of lower Dice is a failure, unless the user says otherwise; the first is that of the platform."""
RESAMPLES = 1000
ALL = "clean and corrupted"
RESPLITS = "clean, mean of 200 re-splits of calibration and locked groups"


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return all tables, as far as their rows are trained."""
    bench = Bench(findings)
    sets = ((CLEAN, (CLEAN,)), (ALL, conditions()))
    return (
        *(detection_table(bench, title, chosen) for title, chosen in sets),
        *(
            detection_table(bench, title, chosen, with_foreground=True)
            for title, chosen in sets
            if any(bench.normal(name) for name in findings.results)
        ),
        difference_table(bench),
        condition_table(bench),
        coverage_table(bench),
        member_table(bench),
        *selection_tables(findings),
        *memory_tables(findings),
    )


def detection_table(bench: Bench, title: str, chosen: Sequence[str], *, with_foreground: bool = False) -> Grid:
    """Return AURC and its kin of every method, over all locked cases or those whose truth has foreground."""
    found = bench.methods()
    limits = _limits(bench)
    rows = []
    for method in METHODS:
        if method in found:
            scored = bench.scored(method, chosen, with_foreground=with_foreground)
            rows.append((method.title, *_detection(scored, limits)))
        else:
            rows.append((method.title, NOT_TRAINED, *[NOTHING] * (6 + len(limits))))
    alone = bench.methods(SEEDS_ALONE)
    if len(alone) > 1:
        scores = [bench.scored(method, chosen, with_foreground=with_foreground) for method in alone]
        rows.append((f"{len(alone)} seeds one by one: entropy (mean, lowest to highest)", *_over_seeds(scores, limits)))
    thresholds = [f"AUROC, Dice < {threshold:g}" for threshold in limits]
    columns = ("method", "Dice", "AURC", "e-AURC", "AUGRC", *thresholds, "Spearman", "risk at 80 %", "without a score")
    cases = f"{title}, truth with foreground" if with_foreground else title
    heading = f"Failure detection, {cases} (95 % intervals by group)"
    return Grid(heading, columns, tuple(rows), note=_detection_note(bench))


def _limits(bench: Bench) -> tuple[float, ...]:
    own = bench.findings.failure_dice
    return THRESHOLDS if own is None else (own,)


def _detection(scored: Scored, limits: Sequence[float]) -> tuple[str, ...]:
    if not scored.dice:
        return (NOTHING,) * (7 + len(limits))
    first, *others = (
        _detected(scored, threshold, RESAMPLES if threshold == limits[0] else RESAMPLES // 4) for threshold in limits
    )
    return (
        percent(summarise(scored.dice, groups=scored.groups)),
        *(estimate(value) for value in (first.aurc, first.excess_aurc, first.augrc)),
        *(detected(figures) for figures in (first, *others)),
        estimate(first.spearman, 3),
        estimate(first.risk_at["80"]),
        str(first.unscored),
    )


def _detected(scored: Scored, threshold: float, resamples: int) -> FailureDetection:
    return failure_detection(
        scored.confidence,
        scored.dice,
        groups=scored.groups,
        failure_dice=threshold,
        foreground=scored.foreground,
        resamples=resamples,
    )


def _over_seeds(scores: Sequence[Scored], limits: Sequence[float]) -> tuple[str, ...]:
    """Return mean, lowest and highest of every figure over networks that differ in their seed."""
    if not scores[0].dice:
        return (NOTHING,) * (7 + len(limits))
    first, *others = ([_detected(scored, threshold, 1) for scored in scores] for threshold in limits)
    return (
        spread_text([100 * float(np.mean(scored.dice)) for scored in scores], 2),
        *(spread_text([getattr(one, name).value for one in first]) for name in ("aurc", "excess_aurc", "augrc")),
        *(spread_text([one.auroc.value for one in figures], 3) for figures in (first, *others)),
        spread_text([one.spearman.value for one in first], 3),
        spread_text([one.risk_at["80"].value for one in first]),
        spread_text([float(one.unscored) for one in first], 1),
    )


def spread_text(values: Sequence[float | None], digits: int = 4) -> str:
    """Return mean, lowest and highest of the values that are defined.

    >>> spread_text([0.1, None, 0.3], 1)
    '0.2, 0.1 to 0.3'
    """
    defined = [value for value in values if value is not None]
    if not defined:
        return NOTHING
    return ", ".join((f"{np.mean(defined):.{digits}f}", f"{min(defined):.{digits}f} to {max(defined):.{digits}f}"))


def _detection_note(bench: Bench) -> str:
    """Say how cases without a score rank, and why those with foreground are judged apart."""
    note = (
        "Cases without a score (nobody marks anything) rank below all others, those of the highest foreground "
        "probability first."
    )
    name = next((name for name in bench.findings.results if bench.normal(name)), None)
    if name is None:
        return f"{note} The truth of every locked case has foreground."
    return (
        f"{note} In {bench.normal(name)} of {len(bench.cases(name))} locked cases the truth has no foreground: their "
        "Dice is 1 where nothing is marked and 0 where anything is, and an empty mask, which has no score, is right "
        "there and worst elsewhere. So the cases with foreground are judged apart, too."
    )


def estimate(value: Estimate, digits: int = 4) -> str:
    """Return a figure with its interval."""
    return with_interval(value.value, value.low, value.high, f".{digits}f")


def detected(figures: FailureDetection) -> str:
    """Return the AUROC with its interval and the number of failures."""
    return f"{estimate(figures.auroc, 3)}, {figures.failures} of {figures.n}"


def difference_table(bench: Bench) -> Grid:
    """Return paired differences of AURC between methods; below 0 the first is better."""

    def method(result: str, score: str) -> Method:
        return next(m for m in METHODS if (m.result, m.score) == (result, score))

    architectures, seeds = (method(name, PAIRWISE) for name in (FIVE_ARCHITECTURES, FIVE_SEEDS))
    pairs = [
        *((method(name, COMBINED), method(name, PAIRWISE)) for name in ENSEMBLES),
        (architectures, seeds),
        *((architectures, other) for other in SHOWN if other.result not in ENSEMBLES),
        (seeds, method(SINGLE, "entropy")),
    ]
    found, rows = bench.methods(), []
    for first, second in pairs:
        if first in found and second in found:
            same = "yes" if first.result == second.result else "no"
            for title, chosen in ((CLEAN, [CLEAN]), (ALL, list(conditions()))):
                name = f"{first.title} minus {second.title}"
                rows.append((name, title, same, *_compared(bench, first, second, chosen)))
    columns = (
        "methods", "cases", "same mask", "AURC", "AURC of the second", "difference", "upper end / AURC of the second",
        "e-AURC", "e-AURC of the second", "difference of e-AURC",
    )  # fmt: skip
    note = (
        "Of different masks, a difference of AURC is of better masks and of better detection together; that of e-AURC, "
        "over the best order of each one's own cases, is of detection alone."
    )
    combined = filter(None, (combined_words(bench, name) for name in ENSEMBLES if name in bench.findings.results))
    note = " ".join((note, *combined))
    return Grid("Paired differences of AURC (95 % intervals by group)", columns, tuple(rows), note=note)


def combined_words(bench: Bench, ensemble: str) -> str:
    """Say how much the other scores move the combined score of an ensemble; nothing where it could not be fitted."""
    regressor = bench.judgement(ensemble).targets[MEAN].regressor
    if regressor is None:
        return ""
    anchor = next((abs(own.coefficient) for own in regressor.scores if own.name == regressor.anchor), 0.0)
    others = max((abs(own.coefficient) for own in regressor.scores if own.name != regressor.anchor), default=0.0)
    return (
        f"{ensemble}, combined: penalty {regressor.penalty:g} on the other scores (at most {PENALTIES[-1]:g}); a "
        f"spread of pairwise Dice moves it by {anchor:.4f}, one of any other score by at most {others:.4f}."
    )


def _compared(bench: Bench, first: Method, second: Method, chosen: Sequence[str]) -> tuple[str, ...]:
    one, other = bench.scored(first, chosen), bench.scored(second, chosen)
    apart = first.result != second.result
    found: PairedDifference = aurc_difference(
        one.confidence,
        other.confidence,
        one.dice,
        second_dice=other.dice if apart else None,
        foreground=one.foreground,
        second_foreground=other.foreground if apart else None,
        groups=one.groups,
        resamples=RESAMPLES,
    )
    relative = NOTHING if found.relative_high is None else f"{100 * found.relative_high:+.1f} %"
    excess = (f"{value:.4f}" for value in (found.first_excess, found.second_excess) if value is not None)
    apart_text = NOTHING if found.excess_difference is None else estimate(found.excess_difference)
    return f"{found.first:.4f}", f"{found.second:.4f}", estimate(found.difference), relative, *excess, apart_text


def condition_table(bench: Bench) -> Grid:
    """Return the Dice of the ensembles and the AURC of a method of each kind, by corruption and strength."""
    shown = bench.methods(SHOWN)
    ensembles = [name for name in ENSEMBLES if name in bench.findings.results]
    rows = []
    for condition in (CLEAN, *(f"{name}-{s}" for name in CORRUPTIONS for s in STRENGTHS)):
        dice = [
            percent(summarise(s.dice, groups=s.groups))
            for s in (bench.scored(Method(name, PAIRWISE, ""), [condition]) for name in ensembles)
        ]
        aurc = [f"{_aurc(bench, method, condition):.4f}" for method in shown]
        rows.append((condition, *dice, *aurc))
    columns = ("condition", *(f"Dice, {name}" for name in ensembles), *(f"AURC, {m.title}" for m in shown))
    return Grid("By corruption and strength", columns, tuple(rows))


def _aurc(bench: Bench, method: Method, condition: str) -> float:
    scored = bench.scored(method, [condition])
    order = TiedOrder(scored.confidence, scored.foreground)
    return float(area_under_risk(order, 1 - np.array(scored.dice), np.ones((1, len(scored.dice)), np.int64))[0])


def coverage_table(bench: Bench) -> Grid:
    """Return how often the lower bound of the Dice held; it is promised for clean cases alone."""
    rows = []
    for name in ENSEMBLES:
        if name not in bench.findings.results:
            continue
        resplit = bench.resplit(name)
        bound = bench.judgement(name).targets["mean"].bound
        mean = NOTHING if resplit is None else f"{100 * resplit:.1f} %"
        if bound.quantile is None:
            rows.append((name, "calibration", f"{bound.groups} groups: too few for a bound", *[NOTHING] * 4))
            continue
        expected = expected_share(bound.groups, bound.coverage)
        ranks = f"{bound.groups}, {bound.rank}"
        ranks += "" if expected is None else f", {100 * expected:.1f} %"
        rows.append((name, RESPLITS, mean, ranks, *[NOTHING] * 3))
        for title, chosen in _strengths():
            found = bench.coverage(name, chosen)
            if found is None or found.share is None or found.low is None or found.high is None:
                continue
            interval = f"{100 * found.low:.1f} to {100 * found.high:.1f} %" if title == CLEAN else "not promised"
            of_cases = NOTHING if found.share_of_cases is None else f"{100 * found.share_of_cases:.1f} %"
            held = f"{100 * found.share:.1f} %"
            rows.append((name, title, held, ranks, interval, str(found.groups), of_cases))
    columns = (
        "ensemble", "cases", "groups that hold", "G, k, k / (G + 1)", "95 % interval (beta-binomial)", "groups",
        "cases that hold",
    )  # fmt: skip
    note = (
        "The bound takes the k-th smallest error of G calibration groups, k = ceil((G + 1) 0.9), and then k / (G + 1) "
        "of new groups are expected to hold: above 90 % by up to 1 / (G + 1), of few groups by more than two points. "
        "The mean of re-splits is near it for any package; it checks the quantile alone."
    )
    return Grid("Coverage of the lower bound, 90 % wanted", columns, tuple(rows), note=note)


def _strengths() -> Iterator[tuple[str, list[str]]]:
    yield CLEAN, [CLEAN]
    for strength in STRENGTHS:
        yield f"corrupted, strength {strength}", [f"{name}-{strength}" for name in CORRUPTIONS]


def member_table(bench: Bench) -> Grid:
    """Return the Dice of every row and ensemble, clean and by strength, mean over the corruptions."""
    results = bench.findings.results
    names = [*ENSEMBLES, *(row.name for row in bench.findings.rows())]
    rows = []
    for name in names:
        if name not in results:
            rows.append((name, NOT_TRAINED, *[NOTHING] * len(STRENGTHS)))
            continue
        scored = (bench.scored(Method(name, "class_dice", ""), chosen) for _, chosen in _strengths())
        rows.append((name, *(percent(summarise(s.dice, groups=s.groups)) for s in scored)))
    columns = ("reading", *(title for title, _ in _strengths()))
    return Grid("Dice of rows and ensembles", columns, tuple(rows))
