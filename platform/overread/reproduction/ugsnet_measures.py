"""What the reproduction of UGS-Net measures of a test case: against Label_1, every annotator, and their regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.architectures.intersection_union import BRANCHES, INTERSECTION, UNION
from overread.architectures.ugs_net import multi_confidence_mask, true_multi_confidence_mask
from overread.data.store import open_case
from overread.metrics.annotators import annotator_agreement
from overread.metrics.calibration import CalibrationBins, calibration_bins
from overread.metrics.densities import intensity_distance, thinned
from overread.metrics.generalised_energy import generalised_energy_distance
from overread.metrics.overlap import Mask, dice, jaccard
from overread.metrics.surface import batch_surface_dice_of_ugs_net, hausdorff_95, surface_dice
from overread.records import MAIN, Prepared
from overread.reproduction.measuring import TestCase
from overread.reproduction.results import RowResult
from overread.training.extras import case_extras
from overread.training.inference import predict_readings

Floats = NDArray[np.floating[Any]]
NAME = "ugsnet"
TOLERANCE = 1.0
"""Of the NSD, in pixels of the image as it came."""
CONFIDENCES = ("mcm", "main")
"""What is held against the share of annotators: the soft Multi-Confidence Mask, and the probability of X_S."""
OPINIONS = "opinions"
"""Name by which what is read of a case is kept with it."""
BY_NAME = "dice with "
"""Start of the name of the Dice with one annotator."""
REGIONS = {"hc": 1.0, "lc": 0.5}
"""Value of the hard Multi-Confidence Mask where all mark a pixel (HC), and where only some do (LC)."""


@dataclass(frozen=True)
class Opinions:
    """A test case as a network reads it and as its annotators drew it; foreground classes are merged."""

    main: Floats
    """(*native) probability of the foreground."""
    branches: dict[str, Floats]
    """The same of the readings of a UGS-Net; none of another network."""
    annotations: Mask
    """(A, *native) of those who drew something."""
    names: tuple[str, ...]
    """Theirs."""

    @classmethod
    def of(cls, case: TestCase) -> Opinions:
        """Read a case with one forward pass; it is kept with the case, as its own cached properties are."""
        kept = vars(case)
        if OPINIONS not in kept:
            kept[OPINIONS] = cls._read(case)
        found = kept[OPINIONS]
        assert isinstance(found, cls)  # noqa: S101  (nothing else is kept by that name)
        return found

    @classmethod
    def _read(cls, case: TestCase) -> Opinions:
        names, annotations = drawn_annotations(case.prepared, case.case_id)
        extras = case_extras(case.segmenter, case.prepared, case.case_id)
        read = predict_readings(case.segmenter, case.image, case.config, case.device, extras=extras)
        maps = {name: 1 - case.native(p)[0] for name, p in read if name in (MAIN, *BRANCHES)}
        return cls(main=maps.pop(MAIN), branches=maps, annotations=annotations, names=names)

    @property
    def mask(self) -> Mask:
        """(*native) the segmentation X_S."""
        return self.main > 0.5

    def confidence(self, kind: str) -> Floats | None:
        """Return one of `CONFIDENCES` (*native); None: the network does not give it."""
        if kind == "main":
            return self.main
        return multi_confidence_mask(self.branches[UNION], self.branches[INTERSECTION]) if self.branches else None

    def region(self, name: str, *, predicted: bool) -> Mask | None:
        """Return a real or predicted one of `REGIONS` (*native); None: the network predicts none."""
        if predicted and not self.branches:
            return None
        found = (
            multi_confidence_mask(self.branches[UNION], self.branches[INTERSECTION], hard=True)
            if predicted
            else true_multi_confidence_mask(self.annotations)
        )
        return found == REGIONS[name]


def drawn_annotations(prepared: Prepared, case_id: str) -> tuple[tuple[str, ...], Mask]:
    """Return who marked anything in a case, and their annotations (A, *native), foreground classes merged."""
    labels = np.asarray(open_case(prepared, case_id).annotations) > 0
    drawn = np.asarray(labels.reshape(len(labels), -1).any(1))
    names = prepared.case(case_id).annotators
    return tuple(name for name, marks in zip(names, drawn, strict=True) if marks), labels[drawn]


def least_annotations(prepared: Prepared) -> int:
    """Return how many drawn annotations a case must have for figures: two, or one where no case has several."""
    return 2 if any(len(case.annotators) > 1 for case in prepared.cases) else 1


def counts(case: TestCase, opinions: Opinions) -> bool:
    """Return whether a case has enough annotations for figures."""
    return len(opinions.annotations) >= least_annotations(case.prepared)


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the paper's figures against Label_1 (`first_*`), those of all annotators, and those of HC and LC.

    `energy_distance` is that of X_S alone, which every row has: one mask pays for what the annotators differ in.
    A set of several pays less, so `set_energy_distance`, of a UGS-Net's X_S and branches, does not compare with it.
    """
    opinions = Opinions.of(case)
    if not counts(case, opinions):
        return {}
    mask, annotations, first = opinions.mask, opinions.annotations, opinions.annotations[0]
    agreement = annotator_agreement(mask, annotations)
    flat = mask.ndim == 2
    values: dict[str, float | None] = {
        "annotators": float(len(annotations)),
        "first_dice": dice(mask, first),
        "first_jaccard": jaccard(mask, first),
        "first_nsd": surface_dice(mask, first, TOLERANCE),
        "first_nsd_program": batch_surface_dice_of_ugs_net(mask[None, None], first[None, None]) if flat else None,
        "first_hd95": hausdorff_95(mask, first, case.prepared.case(case.case_id).spacing),
        "annotator_dice": agreement.mean,
        "least_annotator_dice": min(agreement.each),
        "consensus_dice": agreement.consensus,
        "annotators_dice": agreement.between,
        "energy_distance": agreement.energy_distance,
    }
    values |= {f"{BY_NAME}{name}": value for name, value in zip(opinions.names, agreement.each, strict=True)}
    if opinions.branches:
        values["union_dice"] = dice(np.asarray(opinions.branches[UNION] > 0.5), np.asarray(annotations.any(0)))
        values["intersection_dice"] = dice(
            np.asarray(opinions.branches[INTERSECTION] > 0.5), np.asarray(annotations.all(0))
        )
        readings = np.stack([mask, *(p > 0.5 for p in opinions.branches.values())])
        values["readings"] = float(len(readings))
        values["set_energy_distance"] = generalised_energy_distance(readings, annotations)
        values |= _regions(case, opinions)
    return values


def _regions(case: TestCase, opinions: Opinions) -> dict[str, float | None]:
    """Return mean intensity of the real and predicted regions, and the distance of the two spreads."""
    image = intensities(case)
    values: dict[str, float | None] = {}
    if image is None:
        return values
    for name in REGIONS:
        real, predicted = (image[opinions.region(name, predicted=which)] for which in (False, True))
        values[f"{name}_real"] = float(real.mean()) if real.size else None
        values[f"{name}_predicted"] = float(predicted.mean()) if predicted.size else None
        values[f"{name}_shift"] = intensity_distance(real, predicted)
    return values


def intensities(case: TestCase) -> Floats | None:
    """Return the first channel (*native) as it came, in the unit of the data (HU of a CT); None: it is not kept."""
    native = open_case(case.prepared, case.case_id).native
    return None if native is None else np.asarray(native[0], np.float64)


def intensity_unit(prepared: Prepared) -> str:
    """Return what `intensities` are in: HU where the first channel is CT."""
    return "HU" if prepared.preprocessing.ct[0] else "grey values of the files"


def measure_lists(case: TestCase) -> dict[str, tuple[float, ...]]:
    """Return the sums of the calibration bins and, of a UGS-Net, a sample of the intensities in the regions."""
    opinions = Opinions.of(case)
    if not counts(case, opinions):
        return {}
    lists: dict[str, tuple[float, ...]] = {}
    for kind in CONFIDENCES:
        confidence = opinions.confidence(kind)
        if confidence is not None:
            bins = calibration_bins(confidence, opinions.annotations.mean(0))
            for part in ("count", "confidence", "share"):
                lists[f"{kind}_{part}"] = tuple(getattr(bins, part).tolist())
    image = intensities(case)
    if image is not None and opinions.branches:
        for name in REGIONS:
            for predicted in (False, True):
                inside, key = image[opinions.region(name, predicted=predicted)], _region_key(name, predicted=predicted)
                lists[f"{key}_values"] = tuple(thinned(inside).tolist())
                lists[f"{key}_pixels"] = (float(inside.size),)
    return lists


def _region_key(name: str, *, predicted: bool) -> str:
    return f"{name}_{'predicted' if predicted else 'real'}"


def pooled_intensities(result: RowResult, name: str, *, predicted: bool) -> tuple[Floats, Floats]:
    """Return values (n,) of a region in all test cases of a row, and of how many pixels each stands for; n may be 0."""
    key = _region_key(name, predicted=predicted)
    values, pixels = [np.zeros(0)], [np.zeros(0)]
    for case in sorted(result.cases, key=lambda case: case.case):
        found = np.asarray(case.lists.get(f"{key}_values", ()), np.float64)
        if found.size:
            values.append(found)
            pixels.append(np.full(found.shape, case.lists[f"{key}_pixels"][0] / found.size))
    return np.concatenate(values), np.concatenate(pixels)


def pooled_bins(result: RowResult, kind: str) -> CalibrationBins | None:
    """Return the calibration bins of all test cases of a row together; None: it does not give that confidence."""
    found = [
        CalibrationBins(*(np.asarray(case.lists[f"{kind}_{part}"]) for part in ("count", "confidence", "share")))
        for case in result.cases
        if f"{kind}_count" in case.lists
    ]
    return sum(found[1:], found[0]) if found else None
