"""What a reproduction finds: per row its training and its test cases, per model its cost. All JSON, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.data.preprocess import to_prepared_mask
from overread.data.store import open_case
from overread.jsonio import JsonRecord
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.records import EpochReport, Prepared, TrialConfig
from overread.reproduction.paper import Paper, Protocol, Row, Size


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


@dataclass(frozen=True, kw_only=True)
class RowResult(JsonRecord):
    """`result.json` of a trained and tested row."""

    row: str
    parameters: int
    steps: int
    seconds: float
    """Of training, on one CPU thread each or on a GPU."""
    epochs: tuple[EpochReport, ...]
    """The training curve."""
    cases: tuple[CaseMeasures, ...]

    def values(self, measure: str) -> list[float]:
        """Return a measure of all cases where it is defined."""
        return [v for case in self.cases if (v := case.values.get(measure)) is not None]

    def summary(self, measure: str, *, foreground_only: bool = False) -> Summary:
        """Return mean, sd, n and interval of a measure over the cases where it is defined, resampled by group."""
        found = [
            (value, case.group)
            for case in self.cases
            if (value := case.values.get(measure)) is not None and (case.has_foreground or not foreground_only)
        ]
        return summarise([value for value, _ in found], groups=[group for _, group in found])

    def compared(self, other: RowResult, measure: str = "dice") -> Summary:
        """Return the paired differences (this minus the other) over the cases of both."""
        theirs = {case.case: case.values.get(measure) for case in other.cases}
        pairs = [
            (mine, their, case.group)
            for case in self.cases
            if (mine := case.values.get(measure)) is not None and (their := theirs.get(case.case)) is not None
        ]
        return paired_bootstrap([a for a, _, _ in pairs], [b for _, b, _ in pairs], groups=[g for *_, g in pairs])


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


@dataclass(frozen=True)
class Findings:
    """All that is known when tables and figures are made."""

    paper: Paper
    size: Size
    protocol: Protocol
    prepared: Prepared
    results: dict[str, RowResult] = field(default_factory=dict)
    """Trained rows, by name."""
    networks: dict[str, tuple[TrialConfig, Path]] = field(default_factory=dict)
    """Config and weights of the trained rows."""
    costs: dict[str, Cost] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.prepared.dataset

    def trained(self, names: Sequence[str]) -> list[RowResult]:
        """Return the results of those rows that are trained, in the given order."""
        return [self.results[name] for name in names if name in self.results]

    def rows(self) -> tuple[Row, ...]:
        """Return the models of the paper."""
        return self.paper.rows

    def shown_slice(self, case_id: str) -> tuple[NDArray[Any], tuple[int, NDArray[Any]]]:
        """Return the prepared slice with most truth (H, W), and its place and truth."""
        arrays = open_case(self.prepared, case_id)
        truth = to_prepared_mask(np.asarray(arrays.truth), self.prepared.preprocessing) > 0
        place = int(truth.reshape(len(truth), -1).sum(1).argmax())
        return np.asarray(arrays.image[0, place]), (place, truth[place])

    def slice_of(self, mask: NDArray[Any], place: int) -> NDArray[Any]:
        """Return the slice of a native mask in the prepared grid."""
        return to_prepared_mask(mask.astype(np.uint8), self.prepared.preprocessing)[place]
