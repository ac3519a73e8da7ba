"""Reading one case with an ensemble package.

Each member reads the prepared image, its probabilities go to the case's own grid, its mask into the relations and its
probabilities into the running vote: memory does not grow with the members but for one bit per voxel and class.
A member that raises or yields NaN is left out, and the case is flagged.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overread.confidence.entropy import negative_entropy
from overread.confidence.extent import mask_extent
from overread.confidence.relations import Relations
from overread.confidence.scores import case_confidence
from overread.data.images import NativeImage, write_float_map, write_mask
from overread.ensemble.features import case_sa
from overread.ensemble.fusion import FUSIONS, Probabilities, SoftVote
from overread.ensemble.package import Package
from overread.ensemble.reader import Device, Ids, MemberReader, class_ids
from overread.errors import UserError
from overread.jsonio import write_bytes
from overread.metrics.overlap import CaseDice, Mask, case_dice
from overread.records import CaseConfidence, Manifest


@dataclass(frozen=True, eq=False)
class CaseReading:
    """What the ensemble says of one case. All arrays are in the case's own (native) grid."""

    case_id: str
    mask: Ids
    """Class ids of the fusion."""
    probabilities: Probabilities
    """(K, *native) of the fusion; of the soft vote the mean over the members."""
    relations: Relations
    """One bit-packed reading per member that did not fail, named as the members."""
    confidence: CaseConfidence
    dice: CaseDice | None = None
    """Of the ensemble; None without truth."""
    member_dice: dict[str, CaseDice] = field(default_factory=dict)
    """By member name, the baseline included; empty without truth."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why each member that was left out failed."""

    def possible(self, k: int) -> Mask:
        """Return the voxels that any member reads as class k."""
        return self.relations.possible(k)

    def consensus(self, k: int) -> Mask:
        """Return the voxels that all members read as class k."""
        return self.relations.consensus(k)

    def possible_map(self) -> Ids:
        """Return Possible as class ids; of several possible classes of a voxel the one of highest mean probability."""
        chosen, highest = np.zeros(self.mask.shape, np.uint8), np.full(self.mask.shape, -1.0, np.float32)
        for k in range(1, self.relations.classes):
            better = self.possible(k) & (self.probabilities[k] > highest)
            chosen[better], highest[better] = k, self.probabilities[k][better]
        return chosen

    def consensus_map(self) -> Ids:
        """Return Consensus as class ids; no voxel has two, as every reading gives it one class."""
        chosen = np.zeros(self.mask.shape, np.uint8)
        for k in range(1, self.relations.classes):
            chosen[self.consensus(k)] = k
        return chosen


def read_case(
    package: Package,
    native: NativeImage,
    device: Device,
    *,
    case_id: str,
    truth: NDArray[np.integer] | None = None,
    relation_scores: bool = True,
    imported: Mapping[str, Path] | None = None,
) -> CaseReading:
    """Read one case with all members.

    Args:
        package: The ensemble.
        native: The image as stored.
        device: Where the networks run.
        case_id: Name of the case in rows and messages.
        truth: Class ids in the native grid, for the Dice of ensemble, members and baseline.
        imported: File or folder of the reading of each imported member that has one; others fail on the case.
        relation_scores: Also read what the relation sets of the members name, such as the scales for `c_<i><j>`, and
            the layers of one network for `sa_mean`.

    Raises:
        UserError: The image has NaN or does not fit the package, or every member failed.

    """
    if not np.isfinite(native.array).all():
        raise UserError(f"case {case_id}: voxels must be finite, but some are NaN or infinite: repair the image")
    _check_truth(case_id, native, truth)
    reader = MemberReader(package, native, device, imported)
    relations = Relations(native.native_shape, len(package.manifest.label_names))
    vote, failed, member_dice = SoftVote(), dict[str, str](), dict[str, CaseDice]()
    fusion = vote if package.manifest.fusion == "soft" else FUSIONS[package.manifest.fusion]()
    for member in package.manifest.voters:
        probabilities = reader.attempt(member, failed)
        if probabilities is None:
            continue
        mask = class_ids(probabilities)
        relations.add(mask, member.name)
        vote.add(probabilities, member.vote)
        if fusion is not vote:
            fusion.add(probabilities, member.weight)
        if truth is not None:
            member_dice[member.name] = case_dice(mask, truth, relations.classes)
        del probabilities, mask  # else they live on while the next member reads
    if not relations.n:
        raise UserError(f"case {case_id}: at least one member must read it, but all failed ({_reasons(failed)})")
    mean = vote.mean()
    fused = mean if fusion is vote else fusion.mean()
    mask = class_ids(fused)
    if truth is not None and (measured := reader.baseline_dice(truth, set(member_dice) | set(failed))):
        member_dice |= measured
    scores = (_network_scores(reader, failed) if relation_scores else {}) | {"entropy": negative_entropy(mean)}
    labels, extent = package.manifest.label_names, mask_extent(mask, relations.classes, native.spacing)
    foreground = min(max(float(1 - mean[0].min()), 0.0), 1.0)  # a mean of float32 may leave 0..1 by a rounding
    return CaseReading(
        case_id=case_id,
        mask=mask,
        probabilities=fused,
        relations=relations,
        confidence=case_confidence(case_id, relations, labels, foreground, failed, scores, extent),
        dice=case_dice(mask, truth, relations.classes) if truth is not None else None,
        member_dice=member_dice,
        failed=failed,
    )


def _network_scores(reader: MemberReader, failed: Collection[str]) -> dict[str, float | None]:
    """Return the scores that need further passes of the networks; `sa_mean` wherever there are networks."""
    sa = {"sa_mean": case_sa(reader, failed)} if reader.package.manifest.members else {}
    return reader.relation_scores(failed) | sa


def write_reading(
    out: Path,
    case_id: str,
    reading: CaseReading,
    native: NativeImage,
    manifest: Manifest,
    *,
    probabilities: bool = False,
) -> Path:
    """Write a case into a prediction folder, in the geometry and format of its image; return the path of the mask.

    `masks/`, `possible/` and `consensus/` hold label values; with more than one foreground class the union of each
    is also in `possible/<class id>-<label>/`, since unions overlap. `probabilities/` (optional) holds the mean
    probabilities (K, *native).
    """
    name = f"{case_id}{native.file_format}"
    values = np.asarray(manifest.label_values)
    path = write_mask(out / "masks" / name, values[reading.mask], native)
    write_mask(out / "possible" / name, values[reading.possible_map()], native)
    write_mask(out / "consensus" / name, values[reading.consensus_map()], native)
    if len(values) > 2:
        for k, label in enumerate(manifest.label_names[1:], start=1):
            folder = f"{k}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', label)}"  # a label is the user's text, not a path
            write_mask(out / "possible" / folder / name, np.where(reading.possible(k), values[k], values[0]), native)
    if probabilities:
        write_float_map(out / "probabilities" / name, reading.probabilities, native)
    return path


def write_confidence_csv(path: Path, rows: Sequence[CaseConfidence], label_names: Sequence[str]) -> None:
    """Write `confidence.csv`, one row a case in the given order; what is not defined is left empty.

    `label_names` are by class id, the background first. Columns of further scores come after the others, in order of
    appearance; then `volume_<unit>` and `components` of each class of the mask, where they were measured.
    """
    labels, scores = label_names[1:], list(dict.fromkeys(score for row in rows for score in row.scores))
    per_class = ("relation_confidence", "pairwise_dice", "predicted_dice", "dice_lower_bound")
    columns = ["case", "n_readings", "flag", "foreground", *per_class]
    columns += [f"{score}_{label}" for score in per_class for label in labels] + scores
    units = list(dict.fromkeys(row.volume_unit for row in rows if row.volume_unit))
    columns += [f"volume_{unit}_{label}" for unit in units for label in labels]
    columns += [f"components_{label}" for label in labels if units]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        numbers = [row.foreground, *(getattr(row, score) for score in per_class)]
        numbers += [getattr(row, f"{score}_per_class").get(label) for score in per_class for label in labels]
        numbers += [row.scores.get(score) for score in scores]
        numbers += [row.volume_per_class.get(n) if row.volume_unit == unit else None for unit in units for n in labels]
        numbers += [row.components_per_class.get(label) for label in labels if units]
        table.writerow([row.case, row.n_readings, row.flag, *("" if v is None else f"{v:.6g}" for v in numbers)])
    write_bytes(path, text.getvalue().encode())


def _check_truth(case_id: str, native: NativeImage, truth: NDArray[np.integer] | None) -> None:
    if truth is not None and truth.shape != native.native_shape:
        raise UserError(f"case {case_id}: truth must have shape {native.native_shape}, but has {truth.shape}")


def _reasons(failed: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in failed.items())
