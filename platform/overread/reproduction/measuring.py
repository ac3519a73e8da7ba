"""Reading the test split with a trained row, case by case, as tasks of any process."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from overread.confidence.scores import relation_scores
from overread.data.batches import crop_or_pad
from overread.data.images import read_label, stem
from overread.data.preprocess import to_class_ids, to_native, to_native_ids
from overread.data.store import load_prepared, open_case
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.metrics.instances import Overlaps, count_overlaps
from overread.metrics.overlap import Counts, case_dice
from overread.metrics.rates import foreground_counts, rates
from overread.records import MAIN, Batch, Prepared, TrialConfig, Variant
from overread.reproduction.paper import Paper, Protocol, Size
from overread.reproduction.results import CaseMeasures
from overread.training.evaluate import predict_probabilities
from overread.training.extras import case_extras
from overread.training.inference import FoundInstances, load_segmenter, predict_alternatives, predict_instances

if TYPE_CHECKING:
    from overread.architectures import Segmenter

Ids = NDArray[np.uint8]
MANY = 10
"""Readings of which no single Dice is kept: dropout passes."""


@dataclass(frozen=True, kw_only=True)
class MeasureItem(JsonRecord):
    """One case and the row that reads it."""

    paper: str
    size: Size
    row: str
    case: str
    config: TrialConfig
    weights: str
    prepared: str
    """Folder of the prepared data set."""
    device: str = "cpu"


@dataclass(frozen=True)
class TestCase:
    """A test case with the network that reads it; what is read is read once."""

    __test__ = False  # no test class of pytest's

    row: str
    segmenter: Segmenter
    config: TrialConfig
    prepared: Prepared
    case_id: str
    protocol: Protocol
    device: str
    folder: Path | None = None
    """Of the row's training: what is read may be stored there."""

    @property
    def image(self) -> NDArray[np.float32]:
        """The prepared image (C, D, H, W)."""
        return np.array(open_case(self.prepared, self.case_id).image)

    @property
    def truth(self) -> Ids:
        """Class ids in the native grid."""
        return np.asarray(open_case(self.prepared, self.case_id).truth)

    @cached_property
    def main(self) -> NDArray[np.float32]:
        """(K, *native) probabilities of `main`; read once."""
        return self.read(self.segmenter.variant(MAIN))

    def probabilities(self, variant: Variant | None = None) -> NDArray[np.float32]:
        """Return (K, *native) probabilities of a variant, `main` by default."""
        return self.main if variant is None or variant.name == MAIN else self.read(variant)

    def read(self, variant: Variant) -> NDArray[np.float32]:
        """Return (K, *native) probabilities of a variant, read anew."""
        return predict_probabilities(self.segmenter, self.prepared, self.case_id, self.config, variant, self.device)

    def alternatives(self, anchors: Batch | None = None) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield the other readings of `main`, by name, in the native grid; with anchors those that they give."""
        given = (self.segmenter, self.image, self.config, None, self.device)
        extras = case_extras(self.segmenter, self.prepared, self.case_id)
        for name, read in predict_alternatives(*given, anchors=anchors, extras=extras):
            yield name, self.native(read)

    def anchors(self, case_ids: Sequence[str]) -> Batch:
        """Draw `protocol.anchors` images of other cases, slices for 2-D networks, without a look at any label.

        They are cut or padded to the middle of the patch.
        """
        others = [open_case(self.prepared, other).image for other in case_ids if other != self.case_id]
        size = (1,) * (3 - len(self.config.patch_size)) + tuple(self.config.patch_size)
        flat = self.config.spatial_dims == 2
        places = [(i, z) for i, image in enumerate(others) for z in range(image.shape[1] if flat else 1)]
        if not places:
            raise UserError(f"anchors must be of other cases than {self.case_id}, but there are none: add cases")
        order = np.random.default_rng(self.config.seed).permutation(len(places))[: self.protocol.anchors]
        cuts = []
        for i, z in (places[place] for place in order):
            middle = [(have - want) // 2 for have, want in zip(others[i].shape[1:], size, strict=True)]
            cuts.append(crop_or_pad(others[i], [z, *middle[1:]] if flat else middle, size))
        images = torch.from_numpy(np.stack(cuts))
        images = images[:, :, 0] if flat else images
        labels = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.uint8)
        return Batch(images=images, labels=labels, valid=torch.ones(len(images), 1, dtype=torch.bool))

    def native(self, read: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return prepared maps (K, D, H, W) in the native grid."""
        shape = self.prepared.case(self.case_id).native_shape
        return to_native(read, shape, self.prepared.preprocessing)

    def rates(self, mask: NDArray[np.integer]) -> dict[str, float | None]:
        """Return all rates of a mask's merged foreground."""
        return rates(foreground_counts(mask, self.truth, self.prepared.classes))

    def class_dice(self, mask: NDArray[np.integer]) -> float:
        """Return the mean Dice over the foreground classes that mask or truth has."""
        return case_dice(mask, self.truth, self.prepared.classes).mean

    def counts(self, mask: NDArray[np.integer], name: str = "") -> dict[str, float | None]:
        """Return `tp`, `fp` and `fn` of a mask's merged foreground, for pooled measures; `name` is put before them."""
        return pooled_counts(foreground_counts(mask, self.truth, self.prepared.classes), name)

    @cached_property
    def instances(self) -> FoundInstances:
        """The objects that the network finds, in the prepared grid; read once."""
        return predict_instances(self.segmenter, self.image, self.config, self.device)

    def overlaps(self) -> Overlaps:
        """Return the overlaps of the objects that the network finds with the true ones, in the native grid."""
        found = self.instances
        case = self.prepared.case(self.case_id)
        ids = to_native_ids(found.ids, case.native_shape, self.prepared.preprocessing)
        truth = np.asarray(open_case(self.prepared, self.case_id).native_instances)
        return count_overlaps(ids, truth, found.scores)

    def relation_scores(self) -> dict[str, float | None]:
        """Return the network's own scores of its readings (`c_<i><j>`), and the Dice of each other reading of it."""
        sets = self.segmenter.relation_sets()
        if not sets:
            return {}
        compared = {name for readings in sets.values() for name in readings}
        found: dict[str, float | None] = {}

        def masks() -> Iterator[tuple[str, Ids]]:
            for name, probabilities in self.alternatives():
                mask = probabilities.argmax(0).astype(np.uint8)
                if len(compared) <= MANY:
                    found[f"dice_{name}"] = self.rates(mask)["dice"]
                yield name, mask

        shape = self.prepared.case(self.case_id).native_shape
        scores = relation_scores(sets, masks(), shape, self.prepared.classes)
        return found | scores


def pooled_counts(counts: Counts, name: str = "") -> dict[str, float | None]:
    """Return the counts that a measure over the voxels of all cases is made of."""
    return {f"{name}tp": float(counts.tp), f"{name}fp": float(counts.fp), f"{name}fn": float(counts.fn)}


@lru_cache(maxsize=2)
def _network(config: str, weights: str, device: str) -> Segmenter:
    return load_segmenter(TrialConfig.from_json(json.loads(config)), Path(weights), device)


def open_test_case(
    row: str,
    config: TrialConfig,
    weights: str,
    prepared: Prepared,
    case_id: str,
    protocol: Protocol,
    device: str = "cpu",
) -> TestCase:
    """Return a test case with the network of a row, which is loaded once per process."""
    network = _network(json.dumps(config.to_json(), sort_keys=True), weights, device)
    return TestCase(row, network, config, prepared, case_id, protocol, device, Path(weights).parent)


def measure_item(item: MeasureItem) -> CaseMeasures:
    """Read one case with a row (its network is cached per process) and return its figures."""
    from overread.reproduction import PAPERS

    prepared = load_prepared(Path(item.prepared))
    paper = PAPERS[item.paper]
    protocol = paper.protocols[item.size]
    case = open_test_case(item.row, item.config, item.weights, prepared, item.case, protocol, item.device)
    mask = case.probabilities(case.segmenter.variant(MAIN)).argmax(0).astype(np.uint8)
    return CaseMeasures(
        case=item.case,
        fold=item.config.fold,
        group=prepared.case(item.case).group,
        has_foreground=bool((case.truth > 0).any()),
        values=case.rates(mask) | case.counts(mask) | paper.measure(case),
        lists=paper.measure_lists(case) if paper.measure_lists else {},
    )


def measure_mask(
    folder: Path, prepared: Prepared, case_id: str, fold: int = 0, paper: Paper | None = None
) -> CaseMeasures:
    """Return the figures of a mask that another tool wrote to `folder`, named as the case, in its native grid.

    With those that only the paper has, where they can be measured on a mask alone.
    """
    found = [path for path in sorted(folder.glob(f"{glob.escape(case_id)}.*")) if stem(path) == case_id]
    if not found:
        raise UserError(f"{folder} must hold a mask of the test case {case_id}, but holds none: add it")
    case = prepared.case(case_id)
    values = read_label(found[0])
    merged = prepared.settings.merge_labels
    mask = (values > 0).astype(np.uint8) if merged else to_class_ids(values, prepared.label_values)
    if mask.shape != case.native_shape:
        raise UserError(f"{found[0]} must have the shape {case.native_shape} of its case, but has {mask.shape}")
    truth = np.asarray(open_case(prepared, case_id).truth)
    counts = foreground_counts(mask, truth, prepared.classes)
    has_foreground = bool((truth > 0).any())
    found_rates = rates(counts) | pooled_counts(counts)
    if paper is not None and paper.measure_mask is not None:
        found_rates |= paper.measure_mask(mask, truth, prepared, case_id)
    return CaseMeasures(case=case_id, group=case.group, has_foreground=has_foreground, values=found_rates, fold=fold)
