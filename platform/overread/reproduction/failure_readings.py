"""Readings of the failure benchmark: every case clean and corrupted, read once by each row, then together.

A row leaves `readings-<version>/<case>.npz`, one array per condition, and beside it `<case>.json` with its figures; the
JSON is written last, and a case that has it is not read again (`ensemble.readings`).

Figures are named as the scores, clean, and `<score>@<condition>` of a corruption. Corruptions are read on the test
split alone: what is fitted, is fitted on clean cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.architectures import Segmenter
from overread.confidence.entropy import negative_entropy
from overread.confidence.extent import mask_extent
from overread.confidence.judgement import VOLUME
from overread.confidence.relations import Relations
from overread.confidence.scores import mean_defined, relation_scores
from overread.data.corruptions import CLEAN, conditions, corrupt
from overread.data.preprocess import to_native
from overread.data.store import load_prepared, open_case
from overread.ensemble.fusion import Probabilities, SoftVote
from overread.ensemble.readings import Codes, encode, read_reading, write_readings
from overread.errors import UserError
from overread.jsonio import JsonRecord, read_json, write_json
from overread.metrics.overlap import case_dice
from overread.records import Prepared
from overread.reproduction.measuring import TestCase
from overread.reproduction.results import CaseMeasures
from overread.training.inference import predict_alternatives, predict_volume

Values = dict[str, float | None]
EMPTY = "all_empty"
"""1 where no reading has any foreground: agreement then says nothing."""
COMPONENTS = "components"
FIGURES_VERSION = 3
"""Of readings, corruptions and figures: to be raised when one joins, leaves or changes its meaning. All that is stored
of them is named by it, so that what an earlier version left is never mixed in. 2: volume and components; 3: it names
the readings and results of the rows, too."""
READINGS = f"readings-{FIGURES_VERSION}"


def at(name: str, condition: str) -> str:
    """Return the name of a figure in a condition.

    >>> at("dice", "clean"), at("dice", "blur-2")
    ('dice', 'dice@blur-2')
    """
    return name if condition == CLEAN else f"{name}@{condition}"


# ---------------------------------------------------------------- one row


def read_case(case: TestCase) -> Values:
    """Return the figures of a case in all conditions; its readings are stored with the row."""
    if case.folder is None:
        raise UserError("the readings of a row must have a folder, but the case has none: open it by its weights")
    folder = case.folder / READINGS
    told = folder / f"{case.case_id}.json"
    if told.is_file():
        return dict(read_json(told))
    values: Values = {}

    def readings() -> Iterator[tuple[str, Codes]]:
        for condition in conditions_of(case.prepared, case.case_id):
            own, codes = read_condition(case, condition)
            values.update({at(name, condition): value for name, value in own.items()})
            yield condition, codes

    write_readings(readings_of(case.folder, case.case_id), readings())
    write_json(told, values)
    return values


def readings_of(folder: Path, case_id: str) -> Path:
    """Return the file of a row's readings of a case, by condition."""
    return folder / READINGS / f"{case_id}.npz"


def conditions_of(prepared: Prepared, case_id: str) -> tuple[str, ...]:
    """Return the conditions that a case is read in."""
    return conditions() if case_id in prepared.splits.locked else (CLEAN,)


def read_condition(case: TestCase, condition: str) -> tuple[Values, Codes]:
    """Return the figures of a case in one condition, and its encoded reading.

    The row's alternative readings (scales, passes, relations) give its own scores and, as members of an ensemble do,
    a pairwise Dice.
    """
    image = corrupt(case.image, condition, case.case_id, case.prepared.settings.seed)
    given = (case.segmenter, image, case.config, None, case.device)
    sets, main = case.segmenter.relation_sets(), same_as_main(case.segmenter)
    names = {name for readings in sets.values() for name in readings}
    read: Probabilities | None = None
    masks = {}
    for name, found in predict_alternatives(*given) if sets else ():
        read = found if name == main else read
        if name in names:
            masks[name] = case.native(found).argmax(0).astype(np.uint8)
    read = predict_volume(*given) if read is None else read
    spacing = case.prepared.case(case.case_id).spacing
    values = figures_of(case.native(read), case.truth, spacing)
    if sets:
        relations = Relations(case.truth.shape, case.prepared.classes)
        for name, mask in masks.items():
            relations.add(mask, name)
        values |= relation_scores(sets, masks.items(), case.truth.shape, case.prepared.classes)
        values |= agreement(relations)
    return values, encode(read)


def same_as_main(segmenter: Segmenter) -> str | None:
    """Return the variant that is the main reading by another name (the smallest scale of U-Netmer), if there is one."""
    main, *others = segmenter.variants()
    return next((other.name for other in others if other.options == main.options), None)


def figures_of(
    probabilities: Probabilities, truth: NDArray[np.uint8], spacing: tuple[float, ...] | None = None
) -> Values:
    """Return what a mask of probabilities (K, *native) is worth and looks like.

    Class-mean Dice, entropy, highest foreground probability, `volume_<unit>` and `components` of the foreground classes
    together; `spacing` is in mm, None: not known.
    """
    mask = probabilities.argmax(0).astype(np.uint8)
    extent = mask_extent(mask, len(probabilities), spacing)
    return {
        "class_dice": case_dice(mask, truth, len(probabilities)).mean,
        "entropy": negative_entropy(probabilities),
        "foreground": min(max(float(1 - probabilities[0].min()), 0.0), 1.0),
        f"{VOLUME}{extent.unit}": sum(extent.volumes),
        COMPONENTS: float(sum(extent.components)),
    }


def agreement(relations: Relations) -> Values:
    """Return the scores of the relations of all readings, means over the classes that any of them has."""
    classes = range(1, relations.classes)
    return {
        "pairwise_dice": mean_defined(relations.pairwise_dice(k) for k in classes),
        "relation_confidence": mean_defined(relations.relation_confidence(k) for k in classes),
        EMPTY: float(relations.empty()),
    }


# ---------------------------------------------------------------- rows together


@dataclass(frozen=True, kw_only=True)
class EnsembleItem(JsonRecord):
    """One case and the rows that read it together."""

    case: str
    prepared: str
    """Folder of the prepared data set."""
    folders: dict[str, str]
    """Of the rows, by name."""
    kept: str | None = None
    """File of the result: an interrupted reading goes on after the last case. None: it is not kept."""


def kept_measures(path: Path | None, read: Callable[[], CaseMeasures]) -> CaseMeasures:
    """Return the measures of a case from their file, or read them and leave it."""
    if path is not None and path.is_file():
        return CaseMeasures.load(path)
    measures = read()
    if path is not None:
        measures.save(path)
    return measures


def read_together(item: EnsembleItem) -> CaseMeasures:
    """Return the figures of the soft vote of stored readings, in all conditions.

    In memory are the vote and one member's reading of one condition, whatever the number of members.
    """
    return kept_measures(None if item.kept is None else Path(item.kept), lambda: _read_together(item))


def _read_together(item: EnsembleItem) -> CaseMeasures:
    prepared = load_prepared(Path(item.prepared))
    truth = np.asarray(open_case(prepared, item.case).truth)
    told = [read_json(Path(folder) / READINGS / f"{item.case}.json") for folder in item.folders.values()]
    case, values = prepared.case(item.case), Values()
    for condition in conditions_of(prepared, item.case):
        vote, relations = SoftVote(), Relations(truth.shape, prepared.classes)
        for name, probabilities in stored_readings(item, prepared, condition):
            vote.add(probabilities)
            relations.add(probabilities.argmax(0).astype(np.uint8), name)
        own = figures_of(vote.mean(), truth, case.spacing) | agreement(relations) | member_scores(told, condition)
        values |= {at(name, condition): value for name, value in own.items()}
    return CaseMeasures(case=item.case, group=case.group, has_foreground=bool((truth > 0).any()), values=values)


def stored_readings(item: EnsembleItem, prepared: Prepared, condition: str) -> Iterator[tuple[str, Probabilities]]:
    """Yield the members' probabilities (K, *native) of a case, one at a time, by name."""
    shape = prepared.case(item.case).native_shape
    for name, folder in item.folders.items():
        read = read_reading(readings_of(Path(folder), item.case), condition)
        yield name, to_native(read, shape, prepared.preprocessing)


def member_scores(told: Sequence[Mapping[str, float | None]], condition: str) -> Values:
    """Return the C_ij of the first member that has them."""
    found: Values = {}
    for own in told:
        mine = {n: own.get(at(n, condition)) for n in own if n.startswith("c_") and "@" not in n}
        found = mine | found
    return found
