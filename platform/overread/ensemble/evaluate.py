"""Predicted masks against truths: a table per case and class, and its summary with n, normal cases apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.instances import aggregated_jaccard, count_overlaps, threshold_precision
from overread.metrics.overlap import METRICS, Ids, case_values, class_counts
from overread.metrics.summary import ForegroundSplit, Summary, split_by_foreground, summarise

DEFAULT_METRICS = ("dice", "jaccard", "sensitivity", "precision")


@dataclass(frozen=True, kw_only=True)
class CaseEvaluation(JsonRecord):
    """One case. Per metric its mean over the classes present, and each class (None: absent in both masks)."""

    case: str
    mean: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    """By metric and label name."""
    truth_foreground: bool
    predicted_foreground: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationTable(JsonRecord):
    """All cases and their summary."""

    label_names: tuple[str, ...]
    cases: tuple[CaseEvaluation, ...]
    overall: dict[str, ForegroundSplit]
    """By metric: the class mean over all cases, over those with foreground, and the false positives of the others."""
    per_class: dict[str, dict[str, Summary]]
    """By metric and label name, over the cases where prediction or truth has the class."""
    instances: dict[str, Summary] = field(default_factory=dict)
    """`aji` and `precision_50` of single objects over the cases whose ids were given; none were: empty."""


def evaluate_readings(
    readings: Iterable[tuple[str, Ids, Ids]],
    label_names: Sequence[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> EvaluationTable:
    """Evaluate (case id, predicted class ids, true class ids); only one case is held at a time.

    `label_names` are by class id, the background first. Raises `UserError` for unknown metrics, masks that do not fit
    each other and case ids that come twice.
    """
    known = [METRICS[name] for name in metrics]
    cases: dict[str, CaseEvaluation] = {}
    for case, prediction, truth in readings:
        if case in cases:
            raise UserError(f"case {case} must be evaluated once, but comes twice: rename one")
        try:
            counts = class_counts(prediction, truth, len(label_names))
        except UserError as error:
            raise UserError(*(f"case {case}: {problem}" for problem in error.problems)) from None
        values = {metric.name: case_values(counts, metric) for metric in known}
        cases[case] = CaseEvaluation(
            case=case,
            mean={name: value.mean for name, value in values.items()},
            per_class={n: dict(zip(label_names[1:], v.per_class, strict=True)) for n, v in values.items()},
            truth_foreground=any(c.tp + c.fn for c in counts[1:]),
            predicted_foreground=any(c.tp + c.fp for c in counts[1:]),
        )
    rows = tuple(cases.values())
    return EvaluationTable(
        label_names=tuple(label_names),
        cases=rows,
        overall={name: _overall(rows, name) for name in metrics},
        per_class={name: {label: _of_class(rows, name, label) for label in label_names[1:]} for name in metrics},
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


def _overall(rows: Sequence[CaseEvaluation], metric: str) -> ForegroundSplit:
    values = [row.mean[metric] for row in rows]
    return split_by_foreground(
        values, [row.truth_foreground for row in rows], [row.predicted_foreground for row in rows]
    )


def _of_class(rows: Sequence[CaseEvaluation], metric: str, label: str) -> Summary:
    values = [row.per_class[metric][label] for row in rows]
    return summarise([value for value in values if value is not None])
