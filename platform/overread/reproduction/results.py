"""What a reproduction finds: per row its training and its test cases, per model its cost. All JSON, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from overread.data.preprocess import to_prepared_mask
from overread.data.store import open_case
from overread.jsonio import JsonRecord
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.records import EpochReport, Prepared, TrialConfig
from overread.reproduction.paper import Made, Paper, Protocol, Row, Size

if TYPE_CHECKING:
    from overread.reproduction.measuring import TestCase

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CaseMeasures(JsonRecord):
    """One test case read by one row."""

    case: str
    group: str
    has_foreground: bool
    """Whether the truth has any foreground."""
    values: dict[str, float | None]
    """By name: `dice`, `jaccard`, ... and what the paper's own `measure` gives. None: not defined for this case."""
    lists: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Figures of which a case has several, such as the scores of its objects."""
    fold: int = 0
    """The fold that the network did not train on; with a test split, always the first."""

    @property
    def dice(self) -> float:
        """Dice of the merged foreground: both empty 1, one empty 0."""
        return self.values["dice"] or 0.0


@dataclass(frozen=True, kw_only=True)
class RowResult(JsonRecord):
    """`result.json` of a trained and tested row."""

    row: str
    parameters: int
    steps: int
    seconds: float
    """Of training, over all restarts."""
    epochs: tuple[EpochReport, ...]
    """The training curve; of several folds, their mean."""
    cases: tuple[CaseMeasures, ...]
    threads: int = 1
    """CPU threads of the training (its last part, if it was cut)."""
    measured: str = ""
    """What else than the training the figures depend on (`configs.measuring_key`)."""

    @classmethod
    def of_folds(cls, results: Sequence[RowResult]) -> RowResult:
        """Return the result of a row that was trained once per fold, with the cases of all."""
        first = results[0]
        curves = zip(*(result.epochs for result in results), strict=True)
        return replace(
            first,
            seconds=sum(result.seconds for result in results),
            epochs=tuple(_mean_report(reports) for reports in curves),
            cases=tuple(case for result in results for case in result.cases),
        )

    def by_fold(self) -> list[list[CaseMeasures]]:
        """Return the cases of each fold, in the order of the folds."""
        folds: dict[int, list[CaseMeasures]] = {}
        for case in self.cases:
            folds.setdefault(case.fold, []).append(case)
        return [folds[fold] for fold in sorted(folds)]

    def fold_means(self, measure: str, *, foreground_only: bool = False) -> list[float]:
        """Return the mean of a measure over the cases of each fold where it is defined, in the order of the folds."""
        folds = ([value for value, _ in _defined(cases, measure, foreground_only)] for cases in self.by_fold())
        return [sum(values) / len(values) for values in folds if values]

    def values(self, measure: str) -> list[float]:
        """Return a measure of all cases where it is defined."""
        return [v for case in self.cases if (v := case.values.get(measure)) is not None]

    def summary(self, measure: str, *, foreground_only: bool = False) -> Summary:
        """Return mean, sd, n and interval of a measure over the cases where it is defined, resampled by group."""
        found = _defined(self.cases, measure, foreground_only)
        return summarise([value for value, _ in found], groups=[group for _, group in found])

    def with_dice(self, measure: str) -> RowResult:
        """Return the result with another reading's Dice: that of `measure`."""
        cases = (replace(case, values=case.values | {"dice": case.values.get(measure)}) for case in self.cases)
        return replace(self, cases=tuple(cases))

    def compared(self, other: RowResult, measure: str = "dice") -> Summary:
        """Return the paired differences (this minus the other) over the cases of both."""
        theirs = {case.case: case.values.get(measure) for case in other.cases}
        pairs = [
            (mine, their, case.group)
            for case in self.cases
            if (mine := case.values.get(measure)) is not None and (their := theirs.get(case.case)) is not None
        ]
        return paired_bootstrap([a for a, _, _ in pairs], [b for _, b, _ in pairs], groups=[g for *_, g in pairs])


def _defined(cases: Sequence[CaseMeasures], measure: str, foreground_only: bool) -> list[tuple[float, str]]:
    """Return a measure where it is defined, with the case's group; cases without foreground are left out if told."""
    return [
        (value, case.group)
        for case in cases
        if (value := case.values.get(measure)) is not None and (case.has_foreground or not foreground_only)
    ]


def _mean_report(reports: Sequence[EpochReport]) -> EpochReport:
    """Return one point of the mean curve; what a fold does not report is left out."""
    first = reports[0]
    shared = [name for name in first.metrics if all(name in report.metrics for report in reports)]
    means = {name: sum(report.metrics[name] for report in reports) / len(reports) for name in shared}
    return replace(first, metrics=means)


@dataclass(frozen=True, kw_only=True)
class Cost(JsonRecord):
    """What two training steps of a model take in a process of their own."""

    row: str
    parameters: int
    """At the protocol's width."""
    published: int
    """At the published width."""
    seconds_per_step: float
    peak_bytes: int
    """Most memory that the steps needed beyond the idle process (CPU) or that was allocated (CUDA)."""
    device: str
    failure: str = ""
    """Why the model could not take two steps here; the figures above are then 0."""


def spread(ranked: Sequence[T], count: int = 8) -> list[T]:
    """Return so many of what is ranked, evenly from the first to the last; all of fewer.

    >>> spread("abcdefghi", 3), spread("ab", 3)
    (['a', 'e', 'i'], ['a', 'b'])
    """
    places = (round(i * (len(ranked) - 1) / max(count - 1, 1)) for i in range(count if ranked else 0))
    return [ranked[place] for place in dict.fromkeys(places)]


@dataclass(frozen=True)
class Findings:
    """All that is known when tables and figures are made."""

    paper: Paper
    size: Size
    protocol: Protocol
    prepared: Prepared
    results: dict[str, RowResult] = field(default_factory=dict)
    """Trained rows, by name."""
    networks: dict[str, tuple[tuple[TrialConfig, Path], ...]] = field(default_factory=dict)
    """Config and weights of the trained rows, by fold."""
    costs: dict[str, Cost] = field(default_factory=dict)
    made: Made | None = None
    """What was made before the rows were trained, where the paper needs such."""
    combined: Path | None = None
    """Folder of what `Paper.combine` left."""
    failure_dice: float | None = None
    """A case of lower Dice is a failure; None: as the exhibits have it."""
    baseline: str | None = None
    """Row whose badly segmented cases a table is of; None: as the exhibits have it."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.prepared.dataset

    def trained(self, names: Sequence[str]) -> list[RowResult]:
        """Return the results of those rows that are trained, in the given order."""
        return [self.results[name] for name in names if name in self.results]

    def tested(self, *names: str) -> bool:
        """Whether these rows were trained and tested here: their networks can be opened."""
        return all(name in self.networks and name in self.results for name in names)

    def opened(self, name: str, case_id: str) -> TestCase:
        """Return a test case with the network of a row that tested it."""
        from overread.reproduction.measuring import open_test_case

        fold = next(case.fold for case in self.results[name].cases if case.case == case_id)
        config, weights = next(network for network in self.networks[name] if network[0].fold == fold)
        return open_test_case(name, config, str(weights), self.prepared, case_id, self.protocol)

    def rows(self) -> tuple[Row, ...]:
        """Return the models of the paper."""
        return self.paper.rows

    def shown_slice(self, case_id: str) -> tuple[NDArray[Any], tuple[int, NDArray[Any]]]:
        """Return the prepared slice with most truth (H, W), and its place and truth."""
        arrays = open_case(self.prepared, case_id)
        truth = to_prepared_mask(np.asarray(arrays.truth), self.prepared.preprocessing) > 0
        place = int(truth.reshape(len(truth), -1).sum(1).argmax())
        return np.asarray(arrays.image[0, place]), (place, truth[place])

    def shown_masks(self, case_id: str, names: Sequence[str]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return the slice of `shown_slice`, and there the truth and the masks of rows, by name."""
        image, (place, truth) = self.shown_slice(case_id)
        masks = {"truth": truth}
        for name in names:
            masks[name] = self.slice_of(self.opened(name, case_id).probabilities().argmax(0) > 0, place)
        return image, masks

    def slice_of(self, mask: NDArray[Any], place: int) -> NDArray[Any]:
        """Return the slice of a native mask in the prepared grid."""
        return to_prepared_mask(mask.astype(np.uint8), self.prepared.preprocessing)[place]
