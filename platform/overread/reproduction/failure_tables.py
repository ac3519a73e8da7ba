"""Tables of the failure benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from overread.confidence.conformal import expected_share
from overread.confidence.failure_detection import (
    FAILURE_DICE,
    Estimate,
    FailureDetection,
    PairedDifference,
    aurc_difference,
    failure_detection,
)
from overread.data.corruptions import CLEAN, CORRUPTIONS, STRENGTHS, conditions
from overread.jsonio import read_json
from overread.metrics.summary import summarise
from overread.reproduction.failure_methods import (
    COMBINED,
    ENSEMBLES,
    FIVE_ARCHITECTURES,
    FIVE_SEEDS,
    MEMORY,
    METHODS,
    PAIRWISE,
    SHOWN,
    SINGLE,
    Bench,
    Method,
)
from overread.reproduction.printed import NOTHING
from overread.reproduction.results import Findings
from overread.reproduction.writing import NOT_TRAINED, percent
from overread.review.tables import Grid

THRESHOLDS = (FAILURE_DICE, 0.5)
"""A case of lower Dice is a failure, unless the user says otherwise; the first is that of the platform."""
RESAMPLES = 1000
ALL = "clean and corrupted"


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return all tables, as far as their rows are trained."""
    bench = Bench(findings)
    return (
        detection_table(bench, CLEAN, [CLEAN]),
        detection_table(bench, ALL, conditions()),
        difference_table(bench),
        condition_table(bench),
        coverage_table(bench),
        member_table(bench),
        *memory_tables(findings),
    )


def detection_table(bench: Bench, title: str, chosen: Sequence[str]) -> Grid:
    """Return AURC and its kin of every method."""
    found = bench.methods()
    own = bench.findings.failure_dice
    limits = THRESHOLDS if own is None else (own,)
    rows = []
    for method in METHODS:
        if method not in found:
            rows.append((method.title, NOT_TRAINED, *[NOTHING] * (6 + len(limits))))
            continue
        scored = bench.scored(method, chosen)
        first, *others = (
            failure_detection(
                scored.confidence, scored.dice, groups=scored.groups, failure_dice=threshold,
                resamples=RESAMPLES if threshold == limits[0] else RESAMPLES // 4,
            )
            for threshold in limits
        )  # fmt: skip
        rows.append(
            (
                method.title,
                percent(summarise(scored.dice, groups=scored.groups)),
                estimate(first.aurc),
                *(
                    f"{value.value:.4f}" if value.value is not None else NOTHING
                    for value in (first.excess_aurc, first.augrc)
                ),
                *(detected(figures) for figures in (first, *others)),
                estimate(first.spearman, 3),
                estimate(first.risk_at["80"]),
            )
        )
        rows[-1] = (*rows[-1], str(first.unscored))
    thresholds = [f"AUROC, Dice < {threshold:g}" for threshold in limits]
    columns = ("method", "Dice", "AURC", "e-AURC", "AUGRC", *thresholds, "Spearman", "risk at 80 %", "without a score")
    return Grid(f"Failure detection, {title} (95 % intervals by group)", columns, tuple(rows))


def estimate(value: Estimate, digits: int = 4) -> str:
    """Return a figure with its interval."""
    if value.value is None:
        return NOTHING
    if value.low is None or value.high is None:
        return f"{value.value:.{digits}f}"
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


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
            for title, chosen in ((CLEAN, [CLEAN]), (ALL, list(conditions()))):
                rows.append((f"{first.title} minus {second.title}", title, *_compared(bench, first, second, chosen)))
    columns = ("methods", "cases", "AURC", "AURC of the second", "difference", "upper end / AURC of the second")
    return Grid("Paired differences of AURC (95 % intervals by group)", columns, tuple(rows))


def _compared(bench: Bench, first: Method, second: Method, chosen: Sequence[str]) -> tuple[str, ...]:
    one, other = bench.scored(first, chosen), bench.scored(second, chosen)
    found: PairedDifference = aurc_difference(
        one.confidence, other.confidence, one.dice, second_dice=other.dice, groups=one.groups, resamples=RESAMPLES
    )
    relative = NOTHING if found.relative_high is None else f"{100 * found.relative_high:+.1f} %"
    return f"{found.first:.4f}", f"{found.second:.4f}", estimate(found.difference), relative


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
    return aurc_difference(scored.confidence, scored.confidence, scored.dice, resamples=1).first


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
            rows.append((name, "calibration", f"{bound.groups} groups: too few for a bound", *[NOTHING] * 3))
            continue
        expected = expected_share(bound.groups, bound.coverage)
        told = NOTHING if expected is None else f"{100 * expected:.1f} % expected of any package"
        rows.append((name, "clean, mean of 200 re-splits of calibration and locked groups", mean, told, *[NOTHING] * 2))
        for title, chosen in _strengths():
            found = bench.coverage(name, chosen)
            if found is None or found.share is None or found.low is None or found.high is None:
                continue
            interval = f"{100 * found.low:.1f} to {100 * found.high:.1f} %" if title == CLEAN else "not promised"
            of_cases = NOTHING if found.share_of_cases is None else f"{100 * found.share_of_cases:.1f} %"
            rows.append((name, title, f"{100 * found.share:.1f} %", interval, str(found.groups), of_cases))
    columns = ("ensemble", "cases", "groups that hold", "95 % interval (beta-binomial)", "groups", "cases that hold")
    return Grid("Coverage of the lower bound, 90 % wanted", columns, tuple(rows))


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


def memory_tables(findings: Findings) -> tuple[Grid, ...]:
    """Return what reading a case takes by the number of members, where it was measured."""
    path = None if findings.combined is None else findings.combined / MEMORY
    if path is None or not path.is_file():
        return ()
    told = read_json(path)
    rows = tuple((count, f"{value / 2**20:.1f}") for count, value in told["bytes"].items())
    title = f"Peak memory of a case by members (case {told['case']}, {told['voxels']:,} voxels)"
    return (Grid(title, ("members", "MiB above one loaded network"), rows),)
