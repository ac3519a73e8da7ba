"""The records' own rules: folds, trial configs, soft targets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from overread.errors import UserError
from overread.records import Batch, ImportedMember, Splits, TrialConfig

CONFIG = {"architecture": "unet", "options": {}, "in_channels": 1, "classes": 2, "patch_size": (32, 32)}


def test_a_fold_trains_on_all_others() -> None:
    splits = Splits(locked=("l",), calibration=("c",), folds=(("a",), ("b", "d"), ("e",)))
    fold = splits.fold(1)
    assert fold.train == ("a", "e")
    assert fold.validation == ("b", "d")
    with pytest.raises(UserError, match=r"0\.\.2"):
        splits.fold(3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": None}, "either steps or train_seconds"),
        ({"steps": 1, "train_seconds": 2.0}, "either steps or train_seconds"),
        ({"steps": 1, "spatial_dims": 3}, "patch_size must have 3"),
        ({"steps": 1, "batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": 4, "stop_step": 5}, r"stop_step must be in 1\.\.steps, but got 5 of 4"),
        ({"train_seconds": 2.0, "stop_step": 1}, "stop_step must be in"),
    ],
)
def test_a_wrong_config_says_what_must_hold(change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TrialConfig(**(CONFIG | change))  # type: ignore[arg-type]


def test_weights_per_class_are_told_only_where_there_are_some() -> None:
    member = ImportedMember(name="a", folder="", sha256="", cases=1, validation_dice=None, weight=2.0)
    apart = replace(member, class_weights=(0.5, 1.0))
    assert (member.vote, apart.vote) == (2.0, (0.5, 1.0))
    assert "class_weights" not in member.to_json()  # fingerprints of winners that were frozen before stay
    assert ImportedMember.from_json(member.to_json()) == member
    assert ImportedMember.from_json(apart.to_json()) == apart


def test_resolving_replaces_seconds_by_steps() -> None:
    config = TrialConfig(**CONFIG, train_seconds=3.0)  # type: ignore[arg-type]
    assert (config.resolved(7).steps, config.resolved(7).train_seconds) == (7, None)
    assert TrialConfig.from_json(config.to_json()) == config


def test_a_step_to_stop_at_is_told_only_where_there_is_one() -> None:
    config = TrialConfig(**CONFIG, steps=4)  # type: ignore[arg-type]
    early = replace(config, stop_step=2)
    assert "stop_step" not in config.to_json() and "stop_step" not in config.told  # keys and fingerprints stay
    assert TrialConfig.from_json(early.to_json()) == early
    assert early.told["stop_step"] == 2


def test_soft_targets_are_shares_of_valid_annotators() -> None:
    # One pixel; three annotators say 1, 1, 0, and the third is not valid in the second sample.
    labels = torch.tensor([[[1], [1], [0]], [[1], [0], [1]]], dtype=torch.uint8)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    batch = Batch(images=torch.zeros(2, 1, 1), labels=labels, valid=valid)
    targets = batch.soft_targets(2)
    torch.testing.assert_close(targets[:, 1, 0], torch.tensor([2 / 3, 0.5]))
    torch.testing.assert_close(targets.sum(1), torch.ones(2, 1))


def test_map_changes_images_and_ids_and_keeps_the_rest() -> None:
    def batch(value: float, partner: Batch | None = None) -> Batch:
        return Batch(
            images=torch.full((1, 2, 3), value),
            labels=torch.ones((1, 1, 3), dtype=torch.uint8),
            valid=torch.ones((1, 1), dtype=torch.bool),
            extras={"map": torch.full((1, 1, 3), value)},
            partner=partner,
            instances=torch.full((1, 3), 7),
        )

    shapes: list[tuple[int, ...]] = []

    def ids(values: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(values.shape))
        return values + 1

    whole = batch(1.0, batch(2.0))
    changed = whole.map(images=lambda values: values * 10, ids=ids)
    assert changed.partner is not None and changed.instances is not None
    assert (changed.images[0, 0, 0], changed.extras["map"][0, 0, 0], changed.partner.images[0, 0, 0]) == (10, 10, 20)
    assert (changed.labels.unique().tolist(), changed.instances.tolist()) == ([2], [[8, 8, 8]])
    assert shapes == [(1, 1, 3)] * 4
    assert changed.valid is whole.valid
    assert (float(whole.images[0, 0, 0]), whole.map().labels is whole.labels) == (1.0, True)


def test_to_moves_everything_and_gives_options_to_images_only() -> None:
    batch = Batch(
        images=torch.zeros(1, 1, 2),
        labels=torch.zeros((1, 1, 2), dtype=torch.uint8),
        valid=torch.ones((1, 1), dtype=torch.bool),
        instances=torch.zeros((1, 2), dtype=torch.int64),
    )
    moved = replace(batch, partner=batch).to("meta", dtype=torch.float64)
    assert moved.partner is not None and moved.instances is not None
    parts = (moved.images, moved.labels, moved.valid, moved.instances, moved.partner.valid, moved.partner.images)
    assert all(part.device.type == "meta" for part in parts)
    assert (moved.images.dtype, moved.labels.dtype, moved.partner.images.dtype) == (
        torch.float64,
        torch.uint8,
        torch.float64,
    )
