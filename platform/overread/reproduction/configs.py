"""From a paper's row and protocol to the trial config that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from overread.architectures import ARCHITECTURES, Architecture, build_segmenter
from overread.data.batches import default_patch_size
from overread.errors import UserError
from overread.jsonio import fingerprint
from overread.records import Prepared, PrepareSettings, TrialConfig
from overread.reproduction.paper import Paper, Protocol, Row


def prepare_settings(protocol: Protocol, seed: int) -> PrepareSettings:
    """Return how the data set is prepared: a test split (none where folds are tested), calibration cases, folds."""
    return PrepareSettings(
        max_side=protocol.max_side,
        merge_labels=protocol.merge_labels,
        locked_fraction=0.0 if protocol.cross_validated else protocol.test_fraction,
        calibration_fraction=protocol.calibration_fraction,
        folds=protocol.folds,
        unlabelled=protocol.unlabelled,
        seed=seed,
        **protocol.prepare,
    )


def row_config(row: Row, protocol: Protocol, prepared: Prepared, seed: int, fold: int = 0) -> TrialConfig:
    """Return the config of a row with a fold held out: last weights kept, no early stopping, sizes that it can take.

    An image size that no scale of a set divides is padded to the next multiple and cut back after reading.
    """
    import torch

    dims = protocol.spatial_dims
    config = TrialConfig(
        architecture=architecture_of(row).name,
        options=options_at(row, protocol.width, protocol.options),
        losses={name: weight for name, weight in protocol.losses.items() if name in loss_terms(row)},
        in_channels=len(prepared.preprocessing.channels),
        classes=prepared.classes,
        spatial_dims=dims,
        patch_size=(1,) * dims,
        batch_size=protocol.batch_size,
        steps=protocol.steps or _steps_of(protocol, prepared),
        epochs=protocol.validations,
        keep="last",
        optimiser=protocol.optimiser,
        augment=protocol.augment,
        annotations=row.annotations,
        fold=fold,
        seed=seed + row.seed,
    )
    with torch.device("meta"):
        multiple = build_segmenter(config).needs.size_multiple
    return TrialConfig.from_json(config.to_json() | {"patch_size": list(default_patch_size(prepared, dims, multiple))})


def read_config(row: Row, config: TrialConfig) -> TrialConfig:
    """Return the config that a trained row is tested with."""
    return replace(config, options=dict(config.options) | dict(row.read_options)) if row.read_options else config


def measuring_key(row: Row, paper: Paper, protocol: Protocol) -> str:
    """Return a hash of what a row's figures depend on beside its training: options of the test, anchors, measures.

    What is as in most papers is not told, so that figures of before there was such a key stay.
    """
    told = {
        "options": dict(row.read_options),
        "anchors": None if protocol.anchors == Protocol.anchors else protocol.anchors,
        "measures": paper.measures,
    }
    differing = {name: value for name, value in told.items() if value}
    return fingerprint(differing)[:12] if differing else ""


def architecture_of(row: Row) -> Architecture:
    """Return the architecture of a row; one whose masks are imported has none."""
    if row.architecture is None:
        raise UserError(f"row '{row.name}' cannot be trained here: give its masks by --imported '{row.name}=FOLDER'")
    return ARCHITECTURES[row.architecture]


def options_at(row: Row, share: float, smaller: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return a row's options at a share of its published width, with those of `smaller` that its architecture has."""
    architecture = architecture_of(row)
    published = architecture.options.from_json(dict(architecture.published.options) | dict(row.options)).to_json()
    width = max(row.least_width, round(published["width"] * share))
    replaced = {name: value for name, value in (smaller or {}).items() if name in published}
    return dict(architecture.published.options) | dict(row.options) | replaced | {"width": width}


def loss_terms(row: Row) -> frozenset[str]:
    """Return the loss terms of a row's Segmenter."""
    return frozenset(getattr(architecture_of(row).segmenter, "default_losses", {}))


def _steps_of(protocol: Protocol, prepared: Prepared) -> int:
    """Return the steps of so many passes over all training slices."""
    train = set(prepared.splits.fold(0).train)
    slices = sum(case.shape[0] for case in prepared.cases if case.id in train)
    return max(1, round((protocol.passes or 1) * slices / protocol.batch_size))
