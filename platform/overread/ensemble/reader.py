"""One case on its way through the members of a package: prepared once, read by each, brought back to its own grid."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overread.architectures.contract import Segmenter
from overread.architectures.ugs_net import DISAGREEMENT, multi_confidence_mask
from overread.confidence.scores import relation_scores
from overread.data.images import NativeImage
from overread.data.preprocess import preprocess_image, to_native
from overread.data.readings import read_reading
from overread.data.resample import Grid
from overread.ensemble.fusion import Probabilities
from overread.ensemble.package import Package
from overread.errors import UserError
from overread.metrics.overlap import CaseDice, case_dice
from overread.records import ImportedMember, Member, Variant
from overread.training.inference import predict_alternatives, predict_volume

Device = torch.device | str
Ids = NDArray[np.uint8]
logger = logging.getLogger(__name__)


class MemberReader:
    """One prepared case and the package that reads it; `imported` are the readings of others, by member name."""

    def __init__(
        self, package: Package, native: NativeImage, device: Device, imported: Mapping[str, Path] | None = None
    ) -> None:
        self.package = package
        self.imported = imported or {}
        self.grid = Grid(native.native_shape, native.affine)
        self.shape = native.native_shape
        self.device = device
        self.preprocessing = package.manifest.preprocessing
        self.image = preprocess_image(native.array, self.preprocessing)
        self._extras: dict[str, Tensor] = {}
        """By the name that they would be stored under."""

    def read(self, member: Member, segmenter: Segmenter, variant: Variant) -> Probabilities:
        """Return (K, *native) probabilities; NaN raises `ArithmeticError`."""
        extras = self.extras(segmenter)
        return self._native(predict_volume(segmenter, self.image, member.config, variant, self.device, extras=extras))

    def extras(self, segmenter: Segmenter) -> dict[str, Tensor]:
        """Return the extras of the case (channels, D, H, W): of one key, such as a teacher's maps, computed once."""
        names = {name: segmenter.needs.stored_extra(name) for name in segmenter.needs.extras}
        if not set(names.values()) <= self._extras.keys():
            with torch.inference_mode():
                found = segmenter.case_inputs(torch.from_numpy(self.image).to(self.device))
            self._extras |= {stored: found[name] for name, stored in names.items()}
        return {name: self._extras[stored] for name, stored in names.items()}

    def _native(self, prepared: Probabilities) -> Probabilities:
        if not np.isfinite(prepared).all():
            raise ArithmeticError("its probabilities are not finite")
        return to_native(prepared, self.shape, self.preprocessing)

    def attempt(self, member: Member | ImportedMember, failed: dict[str, str]) -> Probabilities | None:
        """Return a member's probabilities, or None with the reason noted in `failed`."""
        try:
            if isinstance(member, ImportedMember):
                return self._imported(member)
            segmenter = self.package.segmenter(member, self.device)
            return self.read(member, segmenter, segmenter.variant(member.variant))
        except Exception as error:  # whatever breaks one member must not take the case from the others
            failed[member.name] = f"{type(error).__name__}: {error}"
            logger.warning("member %s is left out: %s", member.name, failed[member.name])
            return None

    def _imported(self, member: ImportedMember) -> Probabilities:
        if member.name not in self.imported:
            raise UserError("it must have a reading of this case, but has none")
        manifest = self.package.manifest
        return read_reading(self.imported[member.name], self.grid, manifest.label_names, manifest.label_values)

    def baseline_dice(self, truth: NDArray[np.integer], known: set[str]) -> dict[str, CaseDice]:
        """Return the baseline's Dice by its name, unless it is a member and already measured, or fails."""
        baseline = self.package.manifest.baseline
        if baseline is None or baseline.name in known:
            return {}
        probabilities = self.attempt(baseline, {})
        if probabilities is None:
            return {}
        return {baseline.name: case_dice(class_ids(probabilities), truth, len(probabilities))}

    def relation_scores(self, failed: Collection[str]) -> dict[str, float | None]:
        """Return the scores of the members' relation sets, of the first member of each architecture that has them.

        If that member fails its scores are None, so that every case of a table has the same columns.
        """
        scores: dict[str, float | None] = {}
        done: set[str] = set()
        for member in self.package.manifest.members:
            sets = self.package.relation_sets(member)
            if sets and member.architecture not in done:
                done.add(member.architecture)
                scores = self._set_scores(member, sets, failed) | scores
        return scores

    def _set_scores(
        self, member: Member, sets: Mapping[str, tuple[str, ...]], failed: Collection[str]
    ) -> dict[str, float | None]:
        undefined = dict.fromkeys(sets, None)
        if member.name in failed:
            return undefined
        readings = self.named(member, list(dict.fromkeys(chain(*sets.values()))))
        masks = ((name, class_ids(probabilities)) for name, probabilities in readings)
        try:
            return relation_scores(sets, masks, self.shape, len(self.package.manifest.label_names))
        except Exception as error:  # scores of one member must not take the case from the others
            names = ", ".join(sets)
            logger.warning("%s of member %s are left out: %s: %s", names, member.name, type(error).__name__, error)
            return undefined

    def multi_confidence(self, failed: Collection[str]) -> Probabilities | None:
        """Return the soft Multi-Confidence Mask (K, *native) of the first UGS-Net that reads; None: there is none."""
        for member in self.package.manifest.members:
            names = self.package.relation_sets(member).get(DISAGREEMENT)
            if names is None or member.name in failed:
                continue
            try:
                union, intersection = (read for _, read in self.named(member, names))
            except Exception as error:  # a figure of one member must not take the case from the others
                logger.warning("the MCM of member %s is left out: %s: %s", member.name, type(error).__name__, error)
            else:
                return np.asarray(multi_confidence_mask(union, intersection), np.float32)
        return None

    def named(self, member: Member, names: Sequence[str]) -> Iterator[tuple[str, Probabilities]]:
        """Yield the named readings: variants are read one by one, others are among the alternatives of `main`."""
        segmenter = self.package.segmenter(member, self.device)
        variants = {variant.name for variant in segmenter.variants()}
        for name in names:
            if name in variants:
                yield name, self.read(member, segmenter, segmenter.variant(name))
        others = set(names) - variants
        if others:
            given = (segmenter, self.image, member.config, None, self.device)
            found = predict_alternatives(*given, extras=self.extras(segmenter))
            for name, prepared in found:
                if name in others:
                    yield name, self._native(prepared)


def class_ids(probabilities: Probabilities) -> Ids:
    """Return the most probable class (*S) uint8 of probabilities (K, *S); ties go to the lower id."""
    return np.argmax(probabilities, axis=0).astype(np.uint8)
