"""Predicted masks against truths: a table per case and class, and its summary with n, normal cases apart.

Metrics are overlap formulas (`metrics.overlap`) and distances of surfaces (`metrics.surface`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from overread.ensemble.annotators import AnnotatorTable
from overread.errors import UserError, unknown_name
from overread.jsonio import JsonRecord
from overread.metrics.instances import aggregated_jaccard, count_overlaps, threshold_precision
from overread.metrics.overlap import METRICS, Ids, case_values, class_counts
from overread.metrics.summary import ForegroundSplit, Summary, split_by_foreground, summarise, summarise_defined
from overread.metrics.surface import SURFACE_METRICS, TOLERANCE, Spacing, case_distances, unit_of

DEFAULT_METRICS = ("dice", "jaccard", "sensitivity", "precision")


@dataclass(frozen=True, kw_only=True)
class Measures(JsonRecord):
    """What a reading is measured by, beside the Dice that its scores are held against."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    tolerance: float = TOLERANCE
    """Of the NSD, in the unit of the data."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics)


@dataclass(frozen=True, kw_only=True)
class CaseEvaluation(JsonRecord):
    """One case. Per metric its mean over the classes present, and each class (None: absent in both masks).

    A distance is also None where one of the masks is empty: it is not defined there, as mean or of a class.
    """

    case: str
    mean: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    """By metric and label name."""
    truth_foreground: bool
    predicted_foreground: bool
    unit: str = ""
    """Of distances and the tolerance: mm, pixels or voxels."""
    tolerance: float | None = None
    """Of the NSD; None: no distances were measured."""


@dataclass(frozen=True, kw_only=True)
class EvaluationTable(JsonRecord):
    """All cases and their summary."""

    label_names: tuple[str, ...]
    cases: tuple[CaseEvaluation, ...]
    overall: dict[str, ForegroundSplit]
    """By metric: the class mean over all cases, over those with foreground, and the false positives of the others."""
    per_class: dict[str, dict[str, Summary]]
    """By metric and label name, over the cases where prediction or truth has the class.

    Distances only over those where both have it: look at their n, and at the NSD or Dice beside.
    """
    instances: dict[str, Summary] = field(default_factory=dict)
    """`aji` and `precision_50` of single objects over the cases whose ids were given; none were: empty."""
    unit: str = ""
    """As of `CaseEvaluation`, which all cases share."""
    tolerance: float | None = None
    annotators: tuple[AnnotatorTable, ...] = ()
    """By structure, over the cases that several have annotated; there are none: empty."""


def evaluate_readings(
    readings: Iterable[tuple[str, Ids, Ids]],
    label_names: Sequence[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    tolerance: float = TOLERANCE,
    spacings: Mapping[str, Spacing] | None = None,
) -> EvaluationTable:
    """Evaluate (case id, predicted class ids, true class ids); only one case is held at a time.

    `label_names` are by class id, the background first; `spacings`, by case id, are the unit of distances (None:
    pixels or voxels). Raises `UserError` for unknown metrics, masks that do not fit each other and case ids that come
    twice.
    """
    check_metrics(metrics)
    cases: dict[str, CaseEvaluation] = {}
    for case, prediction, truth in readings:
        if case in cases:
            raise UserError(f"case {case} must be evaluated once, but comes twice: rename one")
        try:
            cases[case] = evaluate_case(
                case, prediction, truth, label_names, metrics, tolerance, (spacings or {}).get(case)
            )
        except UserError as error:
            raise UserError(*(f"case {case}: {problem}" for problem in error.problems)) from None
    return tabulate(tuple(cases.values()), label_names, metrics)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise `UserError` for a metric that is neither of overlaps nor of surfaces."""
    for name in metrics:
        if name not in METRICS and name not in SURFACE_METRICS:
            raise unknown_name("metric", name, [*METRICS, *SURFACE_METRICS])


def evaluate_case(
    case: str,
    prediction: Ids,
    truth: Ids,
    label_names: Sequence[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    tolerance: float = TOLERANCE,
    spacing: Spacing = None,
) -> CaseEvaluation:
    """Return known metrics of the class ids (*S) of one case; distances in the unit of the spacing (None: voxels)."""
    classes = len(label_names)
    counts = class_counts(prediction, truth, classes)
    surfaces = [SURFACE_METRICS[name] for name in metrics if name in SURFACE_METRICS]
    distances = case_distances(prediction, truth, classes, surfaces, tolerance, spacing) if surfaces else {}
    values = {name: distances.get(name) or case_values(counts, METRICS[name]) for name in metrics}
    return CaseEvaluation(
        case=case,
        mean={name: value.mean for name, value in values.items()},
        per_class={n: dict(zip(label_names[1:], v.per_class, strict=True)) for n, v in values.items()},
        truth_foreground=any(c.in_truth for c in counts[1:]),
        predicted_foreground=any(c.predicted for c in counts[1:]),
        unit=unit_of(spacing, truth.ndim) if surfaces else "",
        tolerance=tolerance if surfaces else None,
    )


def tabulate(
    rows: Sequence[CaseEvaluation],
    label_names: Sequence[str],
    metrics: Sequence[str],
    groups: Sequence[Hashable] | None = None,
) -> EvaluationTable:
    """Return the table of evaluated cases; `groups` names the group of each, by which intervals resample."""
    names = tuple(range(len(rows))) if groups is None else tuple(groups)
    return EvaluationTable(
        label_names=tuple(label_names),
        cases=tuple(rows),
        overall={name: _overall(rows, name, names) for name in metrics},
        per_class={name: {label: _of_class(rows, name, label, names) for label in label_names[1:]} for name in metrics},
        unit=rows[0].unit if rows else "",
        tolerance=rows[0].tolerance if rows else None,
    )


def evaluate_instances(readings: Iterable[tuple[str, Ids, Ids]]) -> dict[str, Summary]:
    """Return aggregated Jaccard index and precision at IoU 0.5 of (case id, predicted ids, true ids), ids from 1.

    Ids alone have no scores: there is no average precision.
    """
    found = [count_overlaps(prediction, truth) for _, prediction, truth in readings]
    return {
        "aji": summarise([aggregated_jaccard(image) for image in found]),
        "precision_50": summarise([threshold_precision(image) for image in found]),
    }


def _overall(rows: Sequence[CaseEvaluation], metric: str, groups: Sequence[Hashable]) -> ForegroundSplit:
    return split_by_foreground(
        [row.mean[metric] for row in rows],
        [row.truth_foreground for row in rows],
        [row.predicted_foreground for row in rows],
        groups=groups,
    )


def _of_class(rows: Sequence[CaseEvaluation], metric: str, label: str, groups: Sequence[Hashable]) -> Summary:
    return summarise_defined((row.per_class[metric][label] for row in rows), groups=groups)
