"""What a paper's experiments are: rows (models), protocols (sizes of the experiment), measures and exhibits.

A paper's file registers one `Paper`; `program.reproduce` trains, measures and writes what it names. Everything that
only one paper needs (its readings, its tables and printed numbers) is in that paper's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from overread.records import AugmentConfig, OptimiserConfig
from overread.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from overread.data.prepare import MapCases
    from overread.records import Prepared
    from overread.reproduction.measuring import TestCase
    from overread.reproduction.results import Findings, RowResult
    from overread.review.tables import Grid
    from overread.tracking.runs import Tracker

Size = Literal["small", "paper"]
CROSS_ENTROPY = {"ce": 1.0, "dice": 0.0}
"""Of papers that train all models by it alone: also those whose own papers add Dice."""
NO_AUGMENTATION = AugmentConfig(flip=False, rotate_degrees=0.0, scale=0.0, intensity=0.0)
HALVING = OptimiserConfig(name="adam", learning_rate=1e-4, weight_decay=0.0, schedule="halving")
"""Of U-Netmer and Relation U-Net: halved every 20 of 100 epochs."""
PRINTED = "Printed figures are the paper's, on other splits, sizes and trainings: beside ours, not to be beaten here."


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a paper's tables."""

    name: str
    """As the paper prints it."""
    architecture: str | None
    """None: not a network of ours; its masks come from a folder (`--imported NAME=FOLDER`)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from the architecture's published ones; the width comes from the protocol."""
    core: bool = False
    """Trained unless `--rows` says otherwise."""
    read_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the test alone: what no weight depends on, such as more passes than the validations need."""
    annotations: Literal["all", "first"] = "all"
    """Whose labels it learns from where a case has several (`TrialConfig.annotations`)."""
    least_width: int = 1
    """Narrowest the network can be, whatever share of its published width a protocol asks for."""
    seed: int = 0
    """Added to the seed of the experiment: rows that differ in nothing else are an ensemble of seeds."""
    published: str | None = None
    """The architecture's published setting that the paper's row is, where this one departs from it: its parameters are
    told. None: the row's own options at the published width."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How every row of a paper is trained and tested: equal for all, so that rows may be compared."""

    max_side: int
    """Longest side of the images in pixels; the patch of 2-D networks is a square of it."""
    spatial_dims: int = 2
    """3: trained on patches of volumes."""
    width: float
    """Share of a row's published width."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that replace those of every row whose architecture has them: what else makes the experiment smaller."""
    steps: int | None = None
    """Optimiser steps of every row; None: `passes` over the training cases."""
    passes: int | None = None
    """Passes over the training slices, where the paper counts epochs."""
    batch_size: int = 16
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    losses: Mapping[str, float] = field(default_factory=dict)
    validations: int = 10
    """Points of the validation curve; the last weights are tested, as in the papers."""
    merge_labels: bool = False
    """All structures are one class."""
    unlabelled: bool = False
    """Prepare the unlabelled images too, for a pretraining."""
    prepare: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the preparation (`PrepareSettings`), where a paper's data need such: a window, labels."""
    test_fraction: float = 0.2
    calibration_fraction: float = 0.0
    """Share of the groups that neither trains nor tests, for what is calibrated on readings."""
    read_all: bool = False
    """Rows read the validation fold and the calibration cases too, not only the test split."""
    folds: int = 8
    """One fold of the rest draws the validation curve and chooses nothing; the others train."""
    anchors: int = 200
    """Other images that each test case is read with, where a paper reads pairs."""
    cross_validated: bool = False
    """Every row is trained once per fold, on all other cases, and tested on that fold. There is no test split then."""

    @property
    def trained_folds(self) -> range:
        """Numbers of the folds that are held out, one training each."""
        return range(self.folds if self.cross_validated else 1)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known before the rows are trained."""

    size: Size
    prepared: Prepared
    folder: Path
    """For what is made, in the output folder."""
    deadline: float | None
    """Unix time at which making pauses; long ago: only what is there already is wanted."""
    gpus: float
    seed: int
    tracker: Tracker
    map_cases: MapCases


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made before the rows are trained."""

    options: Mapping[str, Any]
    """Options of the rows that need it."""
    folder: Path
    """Its files, for the exhibits."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """What must be made before some rows are trained: the teacher of their attention maps."""

    architectures: tuple[str, ...]
    """Of the rows that need it."""
    make: Callable[[Setting], Made | None]
    """Find it, or make it as far as the deadline allows; None: not done, the next call goes on."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper's experiments on one data set."""

    name: str
    title: str
    rows: tuple[Row, ...]
    protocols: Mapping[Size, Protocol]
    measure: Callable[[TestCase], dict[str, float | None]]
    """Figures of one test case that only this paper has, by name; a module-level function."""
    exhibits: Callable[[Findings], tuple[Grid, ...]]
    """The paper's tables, ours beside the printed numbers."""
    pictures: Callable[[Findings, Path], tuple[Path, ...]]
    """Write the paper's figures into a folder."""
    combine: Callable[[Findings, MapCases], dict[str, RowResult]] | None = None
    """Results of several tested rows together, such as ensembles, by name; kept in `findings.combined`."""
    about: str = PRINTED
    """Said in the report after the protocol."""
    measure_mask: Callable[[NDArray[np.uint8], NDArray[np.uint8], Prepared, str], dict[str, float | None]] | None = None
    """Figures of an imported mask: of its class ids and the true ones, in the native grid of a case."""
    published_classes: int | None = None
    """Classes with background of the parameter counts at the published width; None: each network's own."""
    measure_lists: Callable[[TestCase], dict[str, tuple[float, ...]]] | None = None
    """Figures of which a test case has several (scores of its objects), where the paper needs such."""
    before: Before | None = None
    by_baseline: bool = False
    """Whether a table is of the cases that a baseline segments badly, which the user may name."""
    measures: int = 0
    """Raised when `measure` gives other figures of the same network: rows are then tested again, not trained."""
    command: str = "reproduce"
    """Of the command line, as the ledger of the locked split tells it."""

    def row(self, name: str) -> Row:
        """Return a row by its printed name; an unknown one lists the known."""
        from overread.errors import unknown_name

        for row in self.rows:
            if row.name == name:
                return row
        raise unknown_name("row", name, [row.name for row in self.rows])


PAPERS: Registry[Paper] = Registry("paper")
