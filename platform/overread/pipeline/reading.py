"""One case read by an ensemble package, as a task that runs in any process.

The task writes the case's masks, its picture and its view, and returns a small record; probabilities and member masks
at full size never leave the process that made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.confidence.judgement import Known
from overread.data.hashing import file_sha256
from overread.ensemble.annotators import ENSEMBLE, MCM, Agreement, agreement_of
from overread.ensemble.evaluate import CaseEvaluation, Measures, evaluate_case
from overread.jsonio import JsonRecord, write_bytes
from overread.records import CaseConfidence, ImportedMember, Manifest

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from overread.data.images import NativeImage
    from overread.ensemble.package import Package
    from overread.ensemble.predict import CaseReading


@dataclass(frozen=True, kw_only=True)
class ReadItem(JsonRecord):
    """What a task needs to read one case."""

    case: str
    files: tuple[str, ...]
    """Image files, one per channel or one with all."""
    package: str
    out: str
    """Prediction folder; empty: nothing is written but the result."""
    group: str = ""
    truth: str | None = None
    """`.npy` file of class ids on the native grid."""
    probabilities: bool = False
    gpus: float = 0.0
    imported: dict[str, str] = field(default_factory=dict)
    """File or folder of the reading of each imported member that has one."""
    guests: tuple[str, ...] = ()
    """Imported members that are not of the package and vote beside it."""
    measures: Measures | None = None
    """Of the mask against the truth; None: its Dice alone."""
    spacing: tuple[float, ...] | None = None
    """Unit of the distances among these; None: pixels or voxels."""
    annotations: str | None = None
    """`.npy` file of class ids by annotator (A, *native), where several annotated the case."""
    annotators: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CaseResult(JsonRecord):
    """What is known of one case after reading it."""

    confidence: CaseConfidence
    group: str = ""
    """Patient or cluster of near-duplicates; empty: the case is its own group."""
    dice: float | None = None
    """Class-mean Dice of the ensemble; None without truth."""
    dice_per_class: dict[str, float | None] = field(default_factory=dict)
    has_foreground: bool | None = None
    """Whether the truth has any foreground."""
    predicted_foreground: bool = False
    member_dice: dict[str, float] = field(default_factory=dict)
    """Class-mean Dice by member name, the baseline included."""
    picture: str | None = None
    """PNG file relative to the prediction folder."""
    view: str | None = None
    """JSON file of a `CaseView` for the review page, relative to the prediction folder."""
    evaluation: CaseEvaluation | None = None
    """None: not asked for."""
    agreement: dict[str, Agreement] = field(default_factory=dict)
    """By structure, how the reading agrees with each of several annotators."""


def known_cases(results: Sequence[CaseResult]) -> list[Known]:
    """Return the results with truth, as confidence is fitted and measured on them."""
    return [
        Known(result.confidence, result.group or result.confidence.case, result.dice, result.dice_per_class)
        for result in results
        if result.dice is not None
    ]


def _package(path: str, guests: tuple[str, ...] = ()) -> Package:
    """Return the package that lies in `path` now: a process outlives packages that are written anew in their place."""
    from overread.ensemble.package import MANIFEST

    manifest = Path(path) / MANIFEST
    return _loaded(path, file_sha256(manifest) if manifest.is_file() else "", guests)


@lru_cache(maxsize=2)
def _loaded(path: str, manifest_sha256: str, guests: tuple[str, ...]) -> Package:
    """Return the package; the hash of its manifest, which holds those of all weights, is there for the cache alone."""
    from overread.ensemble.package import load_package

    package = load_package(Path(path))
    package.manifest = with_guests(package.manifest, guests)
    return package


def with_guests(manifest: Manifest, guests: Sequence[str]) -> Manifest:
    """Return the manifest with further imported members, with a whole vote each."""
    joined = (ImportedMember(name=name, folder="", sha256="", cases=0, validation_dice=None) for name in guests)
    return replace(manifest, imported=(*manifest.imported, *joined))


def _result(
    reading: CaseReading, group: str, truth: NDArray[Any] | None, files: dict[str, str], package: Package
) -> CaseResult:
    labels = package.manifest.label_names
    dice = reading.dice
    return CaseResult(
        confidence=reading.confidence,
        group=group,
        dice=dice.mean if dice else None,
        dice_per_class=dict(zip(labels[1:], dice.per_class, strict=True)) if dice else {},
        has_foreground=bool((truth > 0).any()) if truth is not None else None,
        predicted_foreground=bool((reading.mask > 0).any()),
        member_dice={name: value.mean for name, value in reading.member_dice.items()},
        picture=files.get("picture"),
        view=files.get("view"),
    )


def read_item(item: ReadItem) -> CaseResult:
    """Read one case with the package (cached per process), write its files, return its result."""
    import numpy as np
    import torch

    from overread.data.images import read_image
    from overread.ensemble.predict import read_case, write_reading
    from overread.pipeline.pictures import case_picture, reading_view

    package = _package(item.package, item.guests)
    native = read_image([Path(name) for name in item.files])
    truth = np.load(item.truth, allow_pickle=False) if item.truth else None
    paths = {name: Path(path) for name, path in item.imported.items()}
    device = torch.device("cuda" if item.gpus and torch.cuda.is_available() else "cpu")
    reading = read_case(package, native, device, case_id=item.case, truth=truth, imported=paths)
    files: dict[str, str] = {}
    if item.out:
        out = Path(item.out)
        write_reading(out, item.case, reading, native, package.manifest, probabilities=item.probabilities)
        files = {"picture": f"pictures/{item.case}.png", "view": f"views/{item.case}.json"}
        preprocessing = package.manifest.preprocessing
        write_bytes(out / files["picture"], case_picture(native, reading, truth, preprocessing))
        reading_view(native, reading, truth, preprocessing).save(out / files["view"])
    result = _result(reading, item.group, truth, files, package)
    if item.measures is None or truth is None:
        return result
    measures, labels = item.measures, package.manifest.label_names
    evaluation = evaluate_case(
        item.case, reading.mask, truth, labels, measures.metrics, measures.tolerance, item.spacing
    )
    return replace(result, evaluation=evaluation, agreement=_agreement(item, reading, package, native, device))


def _agreement(
    item: ReadItem, reading: CaseReading, package: Package, native: NativeImage, device: torch.device
) -> dict[str, Agreement]:
    """Hold the reading and its members against the annotators of the case, if there are several."""
    import numpy as np

    from overread.ensemble.reader import MemberReader

    if item.annotations is None:
        return {}
    annotations = np.load(item.annotations, allow_pickle=False)
    confidences = {ENSEMBLE: reading.probabilities}
    soft = MemberReader(package, native, device).multi_confidence(reading.failed)
    return agreement_of(
        reading.mask,
        dict(zip(item.annotators, annotations, strict=True)),
        package.manifest.label_names,
        readings=[reading.relations.reading(index) for index in range(reading.relations.n)],
        confidences=confidences if soft is None else confidences | {MCM: soft},
    )
