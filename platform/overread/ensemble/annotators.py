"""A reading held against everyone who annotated its case, and the tables of such figures.

Where annotators differ one truth hides what they differ in. So of every structure, each foreground class and, of
several, all together, there stand: the Dice with each annotator, with their majority (more than half of them) and with
their STAPLE consensus; the Dice of two annotators, what a reading can be expected to reach; the generalised energy
distance of the mask alone, and of the members' masks as samples of the opinions; and how well the ensemble's
probability, and the soft Multi-Confidence Mask of a UGS-Net, say which share of the annotators marks a voxel.
A structure that neither the reading nor any annotator has is left out of a case.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from overread.ensemble.fusion import Probabilities
from overread.jsonio import JsonRecord
from overread.metrics.annotators import annotator_agreement
from overread.metrics.calibration import CalibrationBins, calibration_bins
from overread.metrics.generalised_energy import generalised_energy_distance
from overread.metrics.overlap import Ids, Mask
from overread.metrics.summary import Summary, summarise_defined

ALL_CLASSES = "all classes"
"""Name of the structure that several foreground classes are together."""
BY_NAME = "annotator:"
"""Start of the name of the Dice with one annotator."""
ENSEMBLE, MCM = "ensemble", "mcm"
"""What is held against the share of annotators."""


@dataclass(frozen=True, kw_only=True)
class Agreement(JsonRecord):
    """A structure of one case; Dice of two empty masks is 1, of one empty and one not 0."""

    each: dict[str, float]
    """Dice with each annotator, by name."""
    majority: float
    consensus: float | None
    """Dice with STAPLE."""
    between: float | None
    """Mean Dice of two different annotators; None: there is one."""
    energy_distance: float
    """Of the mask alone, which compares between ensembles of any size."""
    readings: int = 0
    set_energy_distance: float | None = None
    """Of the masks of so many members: of more than one it pays less for what annotators differ in."""
    calibration: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """By `ENSEMBLE` and `MCM` the three sums of `CalibrationBins`."""


@dataclass(frozen=True, kw_only=True)
class Calibration(JsonRecord):
    """How well a confidence says the share of annotators, over the voxels of all cases (`metrics.calibration`)."""

    expected_error: float | None
    mean_error: float | None
    voxels: tuple[float, ...]
    """Of each bin."""
    confidence: tuple[float | None, ...]
    """Mean of each bin; None: it has no voxel."""
    share: tuple[float | None, ...]
    """Mean share of annotators of each bin."""


@dataclass(frozen=True, kw_only=True)
class AnnotatorTable(JsonRecord):
    """A structure over all cases that several have annotated and any of them or the reading has it."""

    structure: str
    figures: dict[str, Summary]
    """`annotator:NAME`, `annotators` (mean of a case's), `majority`, `staple`, `between_annotators`, energy distances.

    Each over the cases where it is defined: of an annotator those that he annotated.
    """
    calibration: dict[str, Calibration]


def agreement_of(
    mask: Ids,
    annotations: Mapping[str, Ids],
    label_names: Sequence[str],
    *,
    readings: Sequence[Ids] = (),
    confidences: Mapping[str, Probabilities] | None = None,
) -> dict[str, Agreement]:
    """Return by structure how a mask (*S) of class ids agrees with `annotations`, class ids (*S) by annotator.

    `readings` are the masks (*S) of the members, `confidences` probabilities (K, *S) by `ENSEMBLE` or `MCM`. All
    annotations count, empty ones too: the preparation has left out those that should not (`--empty-annotation`).
    """
    found = {
        name: _of_structure(k, mask, annotations, readings, confidences or {}) for name, k in _structures(label_names)
    }
    return {name: agreement for name, agreement in found.items() if agreement is not None}


def _structures(label_names: Sequence[str]) -> Iterator[tuple[str, int | None]]:
    """Yield name and class id of the structures; None: all foreground classes."""
    yield from ((label, k) for k, label in enumerate(label_names[1:], start=1))
    if len(label_names) > 2:
        yield ALL_CLASSES, None


def _of_structure(
    k: int | None,
    mask: Ids,
    annotations: Mapping[str, Ids],
    readings: Sequence[Ids],
    confidences: Mapping[str, Probabilities],
) -> Agreement | None:
    def marked(ids: Ids) -> Mask:
        return np.asarray(ids > 0 if k is None else ids == k)

    drawn, found = np.stack([marked(ids) for ids in annotations.values()]), marked(mask)
    if not drawn.any() and not found.any():
        return None
    agreement = annotator_agreement(found, drawn)
    masks = np.stack([marked(ids) for ids in readings]) if readings else None
    share = drawn.mean(0)
    bins = {name: calibration_bins(1 - p[0] if k is None else p[k], share) for name, p in confidences.items()}
    return Agreement(
        each=dict(zip(annotations, agreement.each, strict=True)),
        majority=agreement.majority,
        consensus=agreement.consensus,
        between=agreement.between,
        energy_distance=agreement.energy_distance,
        readings=len(readings),
        set_energy_distance=None if masks is None else generalised_energy_distance(masks, drawn),
        calibration={name: _sums(one) for name, one in bins.items()},
    )


def _sums(bins: CalibrationBins) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, part)) for part in (bins.count, bins.confidence, bins.share))


def annotator_tables(
    cases: Sequence[Mapping[str, Agreement]], groups: Sequence[Hashable] | None = None
) -> tuple[AnnotatorTable, ...]:
    """Return a table for each structure; `groups` names the group of each case, by which intervals resample."""
    names = list(range(len(cases)) if groups is None else groups)
    structures = dict.fromkeys(structure for case in cases for structure in case)
    return tuple(
        _table(
            structure, [(case[structure], name) for case, name in zip(cases, names, strict=True) if structure in case]
        )
        for structure in sorted(structures, key=lambda structure: structure == ALL_CLASSES)
    )


def _table(structure: str, cases: Sequence[tuple[Agreement, Hashable]]) -> AnnotatorTable:
    def over(value: Callable[[Agreement], float | None]) -> Summary:
        return summarise_defined((value(case) for case, _ in cases), groups=[group for _, group in cases])

    annotators = sorted({name for case, _ in cases for name in case.each})
    figures = {f"{BY_NAME}{name}": over(partial(_with, name)) for name in annotators}
    figures |= {
        "annotators": over(lambda case: sum(case.each.values()) / len(case.each)),
        "majority": over(lambda case: case.majority),
        "staple": over(lambda case: case.consensus),
        "between_annotators": over(lambda case: case.between),
        "energy_distance": over(lambda case: case.energy_distance),
        "set_energy_distance": over(lambda case: case.set_energy_distance),
    }
    kinds = dict.fromkeys(kind for case, _ in cases for kind in case.calibration)
    calibration = {
        kind: _calibration([case.calibration[kind] for case, _ in cases if kind in case.calibration]) for kind in kinds
    }
    return AnnotatorTable(
        structure=structure,
        figures={name: found for name, found in figures.items() if found.n},
        calibration=calibration,
    )


def _with(annotator: str, case: Agreement) -> float | None:
    return case.each.get(annotator)


def _calibration(cases: Sequence[tuple[tuple[float, ...], ...]]) -> Calibration:
    bins = CalibrationBins(*np.sum(np.asarray(cases, np.float64), 0))
    confidence, share = (tuple(None if np.isnan(v) else float(v) for v in values) for values in bins.means())
    return Calibration(
        expected_error=bins.expected_error(),
        mean_error=bins.mean_error(),
        voxels=tuple(map(float, bins.count)),
        confidence=confidence,
        share=share,
    )
