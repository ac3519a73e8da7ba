"""The records that flow from stage to stage, in story order. Read this module first.

`Dataset` (what is on disk) -> `Prepared` (arrays and splits) -> `TrialConfig` (one training to run) -> `EpochReport`
and `TrialOutcome` (what it gave) -> `Winners` (members, frozen) -> `Manifest` (the ensemble package) ->
`CaseConfidence` (one case read by the ensemble).
`Needs`, `Batch`, `Variant` and `Readings` are what a `Segmenter` asks for, gets and gives.

Shapes: B batch, C input channels, A annotators, K classes with background, D H W the prepared axes (D slices; D = 1 for
2-D images), *S the spatial axes a network sees: (H, W) or (D, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from overread.errors import UserError
from overread.jsonio import JsonRecord

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["msd", "nnunet", "folder"]
EmptyAnnotation = Literal["background", "ignore"]
ALL_FOLDS = -1
"""Fold of a training on the cases of all folds: none is left to validate on (a member of a deep ensemble)."""
SINGLE_ANNOTATOR = "reference"
"""Annotator name of a data set with one label per case."""
MAIN = "main"
"""Name of the one fixed variant that a search optimises."""


# ---------------------------------------------------------------- the data set on disk


@dataclass(frozen=True, kw_only=True)
class Case(JsonRecord):
    """One case of a data set; paths are relative to the data set's root."""

    id: str
    group: str
    """Patient or cluster of near-duplicates: a group is never split."""
    channels: tuple[str, ...]
    """Image files: one per channel, or one file that holds all channels."""
    labels: dict[str, str] = field(default_factory=dict)
    """Label file by annotator; empty for an unlabelled case."""
    instances: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset(JsonRecord):
    """A user's data set as recognised on disk (design: the four layouts)."""

    name: str
    root: str
    layout: Layout
    spatial_dims: int
    """2 for images, 3 for volumes."""
    channels: tuple[str, ...]
    label_names: tuple[str, ...]
    """Index = class id in overread; 0 is the background."""
    label_values: tuple[int, ...]
    """Value in the label files of each class id."""
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...] = ()


# ---------------------------------------------------------------- prepared arrays and splits


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(JsonRecord):
    """What `overread prepare` may be told; with the data it determines the prepared arrays."""

    axis: int | None = None
    """Native axis along which volumes are cut into slices; None: the axis of the largest spacing."""
    max_side: int = 128
    """Longest in-plane side after resizing, in pixels; smaller images keep their size."""
    reference: str | None = None
    """Annotator whose label is the truth; None: per-voxel majority of those who annotated."""
    empty_annotation: EmptyAnnotation = "background"
    group_pattern: str | None = None
    """Regular expression whose first group (or whole match) in the case id is the group."""
    locked_fraction: float = 0.20
    calibration_fraction: float = 0.15
    folds: int = 5
    merge_labels: bool = False
    """Make one class, `foreground`, of all foreground classes."""
    unlabelled: bool = False
    """Prepare the unlabelled images too (for self-supervised training)."""
    window: tuple[float, float] | None = None
    """Intensities (in HU) that CT channels are clipped to and scaled from to 0..1; None: percentiles and z-score."""
    labels: tuple[int, ...] | None = None
    """Values in the label files that stay classes, all others become background; None: all stay."""
    locked_pattern: str | None = None
    """Regular expression that finds the locked cases by id, where a split is published; None: a random fraction."""
    seed: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """JSON of what determines the arrays: later settings only where they are given, so that keys of caches stay."""
        later = ("window", "labels", "locked_pattern")
        return {k: v for k, v in self.to_json().items() if k not in later or v is not None}


@dataclass(frozen=True, kw_only=True)
class Preprocessing(JsonRecord):
    """How a native image becomes a prepared array (C, D, H, W); members carry it to read new cases."""

    channels: tuple[str, ...]
    ct: tuple[bool, ...]
    """Per channel: clip to the image's 5-95 percentile before the z-score."""
    spatial_dims: int
    slice_axis: int | None
    """Native axis that becomes D; None for 2-D images."""
    max_side: int
    window: tuple[float, float] | None = None
    """CT is clipped to it and scaled to 0..1 instead."""


@dataclass(frozen=True, kw_only=True)
class PreparedCase(JsonRecord):
    """One case in a prepared folder: `cases/<index>/` with the arrays that `data.store` names."""

    index: int
    id: str
    group: str
    native_shape: tuple[int, ...]
    """Voxels along the native axes, (X, Y[, Z]) for NIfTI and (rows, columns) for images."""
    shape: tuple[int, int, int]
    """(D, H, W) of the prepared arrays."""
    spacing: tuple[float, ...] | None
    """World size of a voxel along the native axes, in mm; None when unknown: distances are in pixels or voxels."""
    annotators: tuple[str, ...]
    """Those who annotated this case, in the order of `labels.npy`; none for an unlabelled case."""
    foreground: tuple[int, ...]
    """Foreground class ids present in the truth."""
    instances: bool = False
    """Whether it has instance ids."""


@dataclass(frozen=True, kw_only=True)
class Fold(JsonRecord):
    """Case ids of one fold: nothing else may be trained or validated on."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Splits(JsonRecord):
    """Case ids by role, split by group (design section 5)."""

    locked: tuple[str, ...]
    calibration: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    def fold(self, index: int) -> Fold:
        """Return fold `index`: its cases validate, those of all other folds train; `ALL_FOLDS`: all train."""
        if index == ALL_FOLDS:
            return Fold(index=index, train=tuple(case for ids in self.folds for case in ids), validation=())
        if not 0 <= index < len(self.folds):
            raise UserError(f"fold must be in 0..{len(self.folds) - 1}, but got {index}")
        train = tuple(case for i, ids in enumerate(self.folds) if i != index for case in ids)
        return Fold(index=index, train=train, validation=self.folds[index])


@dataclass(frozen=True, kw_only=True)
class Prepared(JsonRecord):
    """A prepared data set: `manifest.json` of a cache folder, written last, so that its existence means complete."""

    root: str
    dataset: str
    label_names: tuple[str, ...]
    label_values: tuple[int, ...]
    settings: PrepareSettings
    preprocessing: Preprocessing
    cases: tuple[PreparedCase, ...]
    splits: Splits
    unlabelled: tuple[PreparedCase, ...] = ()
    """Images without labels, in no split; those in the group of a locked case must not train anything either."""
    near_duplicates: tuple[tuple[str, str], ...] = ()
    content: str
    """SHA-256 over data and settings: the key of the cache."""

    @property
    def classes(self) -> int:
        """Number of classes with background (K)."""
        return len(self.label_names)

    def case(self, case_id: str) -> PreparedCase:
        """Return a case by id."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise UserError(f"case '{case_id}' must be in data set '{self.dataset}', but it is not")

    def folder(self, case: PreparedCase) -> Path:
        """Return the folder of a case's arrays."""
        return Path(self.root) / "cases" / f"{case.index:05d}"


# ---------------------------------------------------------------- one training


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(JsonRecord):
    """Optimiser and learning-rate schedule; the schedule runs over the trial's own number of steps."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    schedule: Literal["one_cycle", "halving", "cosine", "cosine_restarts", "poly", "constant"] = "one_cycle"
    """`halving`: halved at every fifth of the steps (U-Netmer: every 20 of 100 epochs). `cosine_restarts`: from the
    full rate again at every fourth (UGS-Net: every 50 of 200 epochs)."""
    gradient_clip: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(JsonRecord):
    """Random changes of whole batches on the device; 0 or False switches one off."""

    flip: bool = True
    rotate_degrees: float = 15.0
    scale: float = 0.1
    intensity: float = 0.1
    probability: float = 0.5
    """Chance of each of rotation-and-scale and intensity per sample; each flip has chance 1/2."""
    turn_and_flip: bool = False
    """With chance 1/2 a quarter turn of any number and a flip in the plane, and then no rotation and scale (the program
    of TransUNet, whose `probability` is 1/2)."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON that names `turn_and_flip` only where it is on: earlier fingerprints and keys stay."""
        return {key: value for key, value in super().to_json().items() if key != "turn_and_flip" or value}


@dataclass(frozen=True, kw_only=True)
class TrialConfig(JsonRecord):
    """Everything that determines one training. Drives a local run, a Ray worker, an MLflow run and a member."""

    architecture: str
    options: dict[str, Any]
    """Options of the architecture, as JSON; its options dataclass validates them."""
    losses: dict[str, float] = field(default_factory=dict)
    """Weights of the named loss terms; empty: the architecture's published ones."""
    spatial_dims: int = 2
    """2: trained on slices; 3: trained on patches of volumes."""
    in_channels: int
    classes: int
    patch_size: tuple[int, ...]
    """(H, W) or (D, H, W) that a batch has; smaller images are padded, larger ones cropped at random."""
    batch_size: int = 16
    """Samples per step over all workers."""
    steps: int | None = None
    """Optimiser steps; None: as many as `train_seconds` allow by a timed step, which are then recorded."""
    train_seconds: float | None = None
    epochs: int = 10
    """Validations (and checkpoints) spread evenly over the steps."""
    patience: int | None = None
    """Stop after so many epochs without a better validation Dice; None: never."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept: that of the best validation Dice, or the last."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mixed_precision: bool = True
    """bf16 autocast, where the timed step shows that it helps (always on CUDA)."""
    fold: int = 0
    """Whose cases validate; `ALL_FOLDS`: none do, all train."""
    seed: int = 0
    annotations: Literal["all", "first"] = "all"
    """Whose labels train where a case has several: all annotators', or only those of the first who marked anything in
    the sample. Validation does not depend on it."""
    baseline: bool = False
    """The plain U-Net that the ensemble is compared with: always trained to the end."""
    stop_step: int | None = None
    """Ends after so many of `steps`, whose schedule stays whole: the epochs share these. None: trains all."""

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            raise UserError(f"spatial_dims must be 2 or 3, but got {self.spatial_dims}")
        if len(self.patch_size) != self.spatial_dims:
            raise UserError(f"patch_size must have {self.spatial_dims} numbers, but got {self.patch_size}")
        if (self.steps is None) == (self.train_seconds is None):
            raise UserError(f"give either steps or train_seconds, but got {self.steps} and {self.train_seconds}")
        for name in ("in_channels", "classes", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.stop_step is not None and not 1 <= self.stop_step <= (self.steps or 0):
            raise UserError(f"stop_step must be in 1..steps, but got {self.stop_step} of {self.steps} steps")

    def to_json(self) -> dict[str, Any]:
        """Return JSON that names `stop_step` only where there is one: earlier fingerprints and keys stay."""
        return {key: value for key, value in super().to_json().items() if key != "stop_step" or value is not None}

    @property
    def told(self) -> dict[str, Any]:
        """JSON to find a training by: later settings only where they differ from the default, so that old keys stay."""
        return {k: v for k, v in self.to_json().items() if not (k == "annotations" and v == "all")}

    def resolved(self, steps: int) -> Self:
        """Return the config with the number of steps that the timed step gave."""
        return replace(self, steps=steps, train_seconds=None)


@dataclass(frozen=True, kw_only=True)
class VariantScore(JsonRecord):
    """Validation result of one variant of a trial, over all validation cases."""

    variant: str
    dice: float
    """Mean over cases of the mean over foreground classes (design section 5)."""
    dice_per_class: dict[str, float | None]
    """By label name; None where no validation case has the class."""
    cases: int
    seconds_per_case: float
    case_dice: dict[str, float] = field(default_factory=dict)
    """Class-mean Dice by case id."""


@dataclass(frozen=True, kw_only=True)
class EpochReport(JsonRecord):
    """What a worker says after each validation, already reduced over all workers."""

    epoch: int
    """1..config.epochs."""
    step: int
    progress: int
    """Per cent of the trial's own step budget: the time attribute of early stopping."""
    seconds: float
    """Training seconds so far, without validation, over all restarts."""
    metrics: dict[str, float]
    """`validation_dice`, `best_validation_dice`, `train_loss`, `learning_rate`, `dice_<label>`, `loss_<term>`.

    Those of the validation only where there are validation cases.
    """


TrialState = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class TrialOutcome(JsonRecord):
    """The end of a trial: `outcome.json` in its folder, beside `weights.safetensors`, written last."""

    trial_id: str
    config: TrialConfig
    state: TrialState
    """`stopped`: by early stopping of the search or the end of its time."""
    reason: str = ""
    epochs: tuple[EpochReport, ...] = ()
    variants: tuple[VariantScore, ...] = ()
    """The first is `main`; none of a training without validation cases."""
    parameters: int = 0
    seconds: float = 0.0
    workers: int = 1
    weights: str | None = None
    """Weights file relative to the trial's folder; None if there are none."""


# ---------------------------------------------------------------- the ensemble

FusionName = Literal["soft", "majority", "staple"]
Vote = float | tuple[float, ...]
"""Weight of a member: one for all classes, or one per class id (K,)."""


class Voter(JsonRecord):
    """What trained and imported members share."""

    weight: float
    class_weights: tuple[float, ...]

    @property
    def vote(self) -> Vote:
        """Its weights per class if it has such, else its weight."""
        return self.class_weights or self.weight

    def to_json(self) -> dict[str, Any]:
        """Return JSON that names the weights per class only where there are some: earlier fingerprints stay."""
        return {key: value for key, value in super().to_json().items() if key != "class_weights" or value}


@dataclass(frozen=True, kw_only=True)
class Member(Voter):
    """One variant of one trial, as part of an ensemble."""

    name: str
    trial_id: str
    architecture: str
    variant: str
    config: TrialConfig
    weights: str
    """Path of the safetensors file, relative to the record's own folder."""
    sha256: str
    validation_dice: float
    """Of a retrained winner (`ALL_FOLDS`) that of the winner, by which it was chosen."""
    weight: float = 1.0
    class_weights: tuple[float, ...] = ()
    """By class id (K,), each above 0, the highest of all members 1 in every foreground class; empty: `weight`."""

    @property
    def retrained(self) -> bool:
        """Whether it is a winner trained again on the cases of all folds."""
        return self.config.fold == ALL_FOLDS

    @property
    def own_validation_dice(self) -> float | None:
        """Of these weights; None: they were trained on the validation cases too."""
        return None if self.retrained else self.validation_dice


@dataclass(frozen=True, kw_only=True)
class ImportedMember(Voter):
    """A model of any other tool, or a person, as part of an ensemble: a folder of its readings (`data.readings`)."""

    name: str
    folder: str
    """Of its readings of the data set's cases; new images have a folder of their own."""
    sha256: str
    """Over the readings of all cases of the data set."""
    cases: int
    """Cases of the data set that it has read."""
    validation_dice: float | None
    """Over the validation cases that it has read; None: there are none. Flattering if it was trained on them."""
    weight: float = 1.0
    architecture: str = "imported"
    variant: str = MAIN
    class_weights: tuple[float, ...] = ()
    """As those of `Member`."""

    @property
    def own_validation_dice(self) -> float | None:
        """As that of `Member`."""
        return self.validation_dice


@dataclass(frozen=True, kw_only=True)
class Winners(JsonRecord):
    """`winners.json`: frozen before the locked split is touched. Its fingerprint is what a package refers to."""

    rule: str
    members: tuple[Member, ...]
    prepared: str
    """`Prepared.content`."""
    baseline: Member | None = None
    """The plain U-Net of the same search, read beside the ensemble; votes only if it is a member too."""
    folds: tuple[int, ...] = (0,)
    fusion: FusionName = "soft"
    imported: tuple[ImportedMember, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest(JsonRecord):
    """`manifest.json` of an ensemble package: a folder with this file and one safetensors file per member."""

    name: str
    members: tuple[Member, ...]
    label_names: tuple[str, ...]
    label_values: tuple[int, ...]
    preprocessing: Preprocessing
    winners: str
    """Fingerprint of the frozen winners."""
    prepared: str
    locked_cases: int
    baseline: Member | None = None
    """Read for comparison, without a vote."""
    earlier_packages: tuple[str, ...] = ()
    """Who was measured on the same locked split before: fingerprints of winners, names of `reproduce` and `bench`."""
    calibration: dict[str, float] | None = None
    fusion: FusionName = "soft"
    """How the members' readings become one mask (`ensemble.fusion`)."""
    imported: tuple[ImportedMember, ...] = ()
    """They vote as the others; without a reading of a case they count as failed on it."""
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    @property
    def voters(self) -> tuple[Member | ImportedMember, ...]:
        """All that vote, the trained members first."""
        return (*self.members, *self.imported)


@dataclass(frozen=True, kw_only=True)
class CaseConfidence(JsonRecord):
    """One row of `confidence.csv`. None: not defined for this case (design section 2)."""

    case: str
    n_readings: int
    flag: str = ""
    """`all_empty`, `member_failed:<names>`, or nothing; a flagged case is never ranked as safe."""
    foreground: float
    """Highest mean foreground probability of any voxel: ranks flagged cases."""
    relation_confidence: float | None
    pairwise_dice: float | None
    relation_confidence_per_class: dict[str, float | None]
    pairwise_dice_per_class: dict[str, float | None]
    scores: dict[str, float | None] = field(default_factory=dict)
    """Further scores of the table in `confidence.scores`, such as `c_12`."""
    absent: tuple[str, ...] | None = None
    """Classes that no reading has; None: not known of a single reading (of several, those without agreement)."""
    volume_unit: str = ""
    """`ml`, `mm2`, `voxels` or `pixels`."""
    volume_per_class: dict[str, float] = field(default_factory=dict)
    """Of the ensemble's own mask, by label name."""
    components_per_class: dict[str, int] = field(default_factory=dict)
    """Connected parts of the ensemble's own mask, by label name."""
    predicted_dice: float | None = None
    """Class-mean Dice that the scores predict (`confidence.combined`)."""
    dice_lower_bound: float | None = None
    """At or below the true Dice at the coverage of the package (`confidence.conformal`)."""
    predicted_dice_per_class: dict[str, float | None] = field(default_factory=dict)
    dice_lower_bound_per_class: dict[str, float | None] = field(default_factory=dict)


# ---------------------------------------------------------------- what a Segmenter asks for, gets and gives


@dataclass(frozen=True)
class Extra:
    """An extra array of whole cases (channels, D, H, W), computed once by `Segmenter.case_inputs` and stored."""

    channels: int
    key: str
    """Hash of all that computed it; part of the file's name, so other settings never read it."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an instance of a Segmenter needs from the data, from its own config."""

    size_multiple: int = 1
    """Spatial sizes must be multiples of this; batches and tiles are padded to it."""
    pairs: bool = False
    """A second, independently drawn sample as `Batch.partner`."""
    annotators: bool = False
    """Every annotator's own label; otherwise `Batch.soft_targets` is all that is used."""
    instances: bool = False
    least_side: int = 1
    """Shortest in-plane side of a whole image, in pixels and before padding: one patch of a ViT that looks at it."""
    extras: Mapping[str, Extra] = field(default_factory=dict)
    """Named extra arrays (attention maps)."""

    def stored_extra(self, name: str) -> str:
        """Return the name under which an extra is stored with a case: `<name>-<key>`."""
        return f"{name}-{self.extras[name].key}"


Change = Callable[["Tensor"], "Tensor"]


def _unchanged(values: Tensor) -> Tensor:
    return values


@dataclass(kw_only=True)
class Batch:
    """Samples on one device. Labels of annotators who did not annotate are masked by `valid`."""

    images: Tensor
    """(B, C, *S) float."""
    labels: Tensor
    """(B, A, *S) uint8 class ids."""
    valid: Tensor
    """(B, A) bool."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """(B, channels, *S) float each."""
    partner: Batch | None = None
    instances: Tensor | None = None
    """(B, *S) int32 instance ids, 0 = none."""

    def to(self, device: Any, **options: Any) -> Batch:
        """Return the batch on `device`; options go to `Tensor.to` of the images and extras."""

        def move(values: Tensor) -> Tensor:
            return values.to(device)

        return self.map(images=lambda values: values.to(device, **options), ids=move, valid=move)

    def map(self, *, images: Change = _unchanged, ids: Change = _unchanged, valid: Change = _unchanged) -> Batch:
        """Return the batch with changed tensors, in the partner too.

        `images` changes the images and each extra (B, channels, *S), `ids` the labels (B, A, *S) and the instances
        (as (B, 1, *S)), `valid` the mask over annotators (B, A).
        """
        return replace(
            self,
            images=images(self.images),
            labels=ids(self.labels),
            valid=valid(self.valid),
            extras={name: images(extra) for name, extra in self.extras.items()},
            partner=None if self.partner is None else self.partner.map(images=images, ids=ids, valid=valid),
            instances=None if self.instances is None else ids(self.instances[:, None])[:, 0],
        )

    def soft_targets(self, classes: int) -> Tensor:
        """Return (B, K, *S) float: per voxel the share of valid annotators for each class; sums to 1."""
        import torch

        spatial = (1,) * (self.labels.ndim - 2)
        weights = self.valid.to(torch.float32)
        weights = (weights / weights.sum(1, keepdim=True).clamp_min(1.0)).reshape(*weights.shape, *spatial)
        shares = [((self.labels == k) * weights).sum(1) for k in range(classes)]
        return torch.stack(shares, dim=1)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to read with a trained Segmenter: a scale, a pruning level, or `main`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    """Forward cost relative to `main`."""


class Readings:
    """What a Segmenter reads in a batch.

    Args:
        probabilities: (B, K, *S) with background, sums to 1 over K: members of any kind can be averaged. Or a function
            that computes them when they are first asked for: not for nothing where only the alternatives are wanted.
        alternatives: Gives other readings of the same batch, one at a time, as (name, (B, K, *S) probabilities).
        instances: Per sample, for networks that find instances.

    """

    def __init__(
        self,
        *,
        probabilities: Tensor | Callable[[], Tensor],
        alternatives: Callable[[], Iterator[tuple[str, Tensor]]] = lambda: iter(()),
        instances: tuple[Any, ...] | None = None,
    ) -> None:
        self._probabilities = probabilities
        self.alternatives = alternatives
        self.instances = instances

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, K, *S) with background, sums to 1 over K."""
        return self._probabilities() if callable(self._probabilities) else self._probabilities
