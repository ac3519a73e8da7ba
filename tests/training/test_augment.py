from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from overread.records import AugmentConfig, Batch
from overread.training.augment import Draws, Share, _affine, _change, augment, draw
from overread.training.seeds import generator_for

OFF = AugmentConfig(flip=False, rotate_degrees=0.0, scale=0.0, intensity=0.0)


def batch_of(images: torch.Tensor, labels: torch.Tensor, **more: object) -> Batch:
    valid = torch.ones(labels.shape[:2], dtype=torch.bool)
    return Batch(images=images, labels=labels, valid=valid, **more)  # type: ignore[arg-type]


def draws(count: int = 1, axes: int = 2, channels: int = 1, **changes: torch.Tensor) -> Draws:
    plain = {
        "flips": torch.zeros(count, axes, dtype=torch.bool),
        "angles": torch.zeros(count),
        "scales": torch.ones(count),
        "gains": torch.ones(count, channels),
        "shifts": torch.zeros(count, channels),
    }
    return Draws(**(plain | changes))


@pytest.mark.parametrize("spatial", [(6, 8), (4, 6, 8)])
def test_everything_off_changes_nothing(spatial: tuple[int, ...]) -> None:
    batch = batch_of(torch.randn(3, 2, *spatial), torch.randint(0, 3, (3, 1, *spatial), dtype=torch.uint8))
    changed = augment(batch, OFF, seed=0, step=0, share=Share(3))
    assert torch.equal(changed.images, batch.images)
    assert torch.equal(changed.labels, batch.labels)


def test_flip_moves_voxels_exactly_and_only_in_the_chosen_samples() -> None:
    images = torch.tensor([[[[1.0, 2], [3, 4]]], [[[5.0, 6], [7, 8]]], [[[9.0, 10], [11, 12]]]])
    flips = torch.tensor([[True, False], [False, True], [False, False]])
    changed = _change(batch_of(images, images.to(torch.uint8)), draws(3, flips=flips))
    expected = torch.tensor([[[[3.0, 4], [1, 2]]], [[[6.0, 5], [8, 7]]], [[[9.0, 10], [11, 12]]]])
    assert torch.equal(changed.images, expected)
    assert torch.equal(changed.labels, expected.to(torch.uint8))


def test_quarter_turn_is_exact_also_for_sides_of_different_length() -> None:
    image = torch.zeros(1, 1, 5, 9)
    image[0, 0, 2, 6] = 1.0  # two right of the centre (2, 4)
    turned = _affine(image, draws(angles=torch.tensor([math.pi / 2])), nearest=True)
    assert turned.nonzero().tolist() == [[0, 0, 0, 4]]  # two above the centre


def test_scale_two_doubles_a_square() -> None:
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[0, 0, 3:5, 3:5] = 2
    grown = _affine(label, draws(scales=torch.tensor([2.0])), nearest=True)
    expected = torch.zeros(8, 8, dtype=torch.uint8)
    expected[2:6, 2:6] = 2
    assert torch.equal(grown[0, 0], expected)


def test_volumes_turn_within_their_slices() -> None:
    volume = torch.zeros(1, 1, 3, 5, 5)
    volume[0, 0, 1, 2, 4] = 1.0
    turned = _affine(volume, draws(axes=3, angles=torch.tensor([math.pi / 2])), nearest=True)
    assert turned.nonzero().tolist() == [[0, 0, 1, 0, 2]]


@pytest.mark.parametrize("spatial", [(16, 20), (6, 16, 20)])
def test_labels_extras_and_instances_go_with_the_image(spatial: tuple[int, ...]) -> None:
    """A smooth blob: wherever the moved blob is high its moved mask is 1, the extra equals the image."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in spatial), indexing="ij")
    blob = torch.exp(-3 * sum((axis - 0.2) ** 2 for axis in axes))  # type: ignore[arg-type]
    images = blob.expand(6, 1, *spatial).clone()
    labels = (images > 0.5).to(torch.uint8)
    batch = batch_of(images, labels, extras={"map": images.clone()}, instances=labels[:, 0].long() * 70000)
    config = AugmentConfig(intensity=0.0, probability=1.0, rotate_degrees=30.0, scale=0.2)
    changed = augment(batch, config, seed=3, step=4, share=Share(6))
    assert not torch.equal(changed.images, images)
    assert torch.equal(changed.extras["map"], changed.images)
    assert changed.labels.dtype == torch.uint8
    assert set(changed.labels.unique().tolist()) == {0, 1}
    assert bool((changed.labels[changed.images > 0.7] == 1).all())
    assert bool((changed.labels[changed.images < 0.3] == 0).all())
    assert changed.instances is not None
    assert torch.equal(changed.instances, changed.labels[:, 0].long() * 70000)


def test_intensity_changes_contrast_and_brightness_of_images_only() -> None:
    labels = torch.ones(1, 1, 2, 2, dtype=torch.uint8)
    tint = draws(channels=2, gains=torch.tensor([[2.0, 1.0]]), shifts=torch.tensor([[0.5, -1.0]]))
    changed = _change(batch_of(torch.full((1, 2, 2, 2), 3.0), labels), tint)
    assert changed.images[0, :, 0, 0].tolist() == [6.5, 2.0]
    assert torch.equal(changed.labels, labels)


def test_draws_follow_seed_and_step_and_are_the_same_for_two_workers() -> None:
    images, labels = torch.randn(5, 1, 8, 8), torch.randint(0, 2, (5, 1, 8, 8), dtype=torch.uint8)
    whole = augment(batch_of(images, labels), AugmentConfig(), seed=1, step=2, share=Share(5))
    again = augment(batch_of(images, labels), AugmentConfig(), seed=1, step=2, share=Share(5))
    other = augment(batch_of(images, labels), AugmentConfig(), seed=1, step=3, share=Share(5))
    assert torch.equal(whole.images, again.images)
    assert not torch.equal(whole.images, other.images)
    for rank in (0, 1):
        mine = batch_of(images[rank::2], labels[rank::2])
        changed = augment(mine, AugmentConfig(), seed=1, step=2, share=Share(5, rank, 2))
        assert torch.allclose(changed.images, whole.images[rank::2], atol=1e-6)
        assert torch.equal(changed.labels, whole.labels[rank::2])


def test_partner_has_draws_of_its_own() -> None:
    images, labels = torch.randn(4, 1, 8, 8), torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    batch = batch_of(images, labels, partner=batch_of(images.clone(), labels))
    changed = augment(batch, AugmentConfig(), seed=0, step=0, share=Share(4))
    assert changed.partner is not None
    assert changed.partner.partner is None
    assert not torch.equal(changed.images, changed.partner.images)


def test_quarter_turns_go_before_flips_and_are_exact() -> None:
    images = torch.tensor([[[[1.0, 2], [3, 4]]]]).expand(3, 1, 2, 2)
    flips = torch.tensor([[False, False], [False, False], [True, False]])
    drawn = draws(3, flips=flips, turns=torch.tensor([1, 2, 1]))
    changed = _change(batch_of(images, images.to(torch.uint8)), drawn)
    expected = torch.tensor([[[[2.0, 4], [1, 3]]], [[[4.0, 3], [2, 1]]], [[[1.0, 3], [2, 4]]]])
    assert torch.equal(changed.images, expected)
    assert torch.equal(changed.labels, expected.to(torch.uint8))


def test_half_are_turned_and_flipped_and_half_of_the_others_rotated() -> None:
    config = AugmentConfig(flip=False, turn_and_flip=True, rotate_degrees=20.0, scale=0.0, intensity=0.0)
    image = torch.tensor([[[[1.0, 2], [3, 4]]]]).expand(4000, 1, 2, 2)
    batch = batch_of(image, image.to(torch.uint8))
    drawn = draw(config, batch, Share(4000), generator_for(0, 1))
    flipped, rotated = drawn.flips.sum(1), drawn.angles != 0
    assert flipped.unique().tolist() == [0, 1]  # one axis of the two
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert rotated.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert not (rotated & (flipped > 0)).any()
    assert drawn.turns is not None
    assert torch.bincount(drawn.turns[flipped > 0]).tolist() == pytest.approx([500] * 4, abs=100)
    assert not drawn.turns[flipped == 0].any()
    plain = draw(replace(config, turn_and_flip=False), batch, Share(4000), generator_for(0, 1))
    assert torch.equal(plain.angles[flipped == 0], drawn.angles[flipped == 0])  # no other draw has moved
    changed = augment(batch, replace(config, rotate_degrees=0.0), seed=0, step=1, share=Share(4000)).images
    assert len(changed.flatten(1).unique(dim=0)) == 5  # as it is, and mirrored at either axis or diagonal


def test_sides_of_different_length_only_make_half_turns() -> None:
    config = AugmentConfig(flip=False, turn_and_flip=True, rotate_degrees=0.0, scale=0.0, intensity=0.0)
    images = torch.rand(16, 1, 3, 4, 6)
    batch = batch_of(images, images.to(torch.uint8))
    drawn = draw(config, batch, Share(16), generator_for(0, 1))
    assert drawn.turns is not None
    assert set(drawn.turns.tolist()) == {0, 2}
    assert not drawn.flips[:, 0].any()  # in the plane
    assert augment(batch, config, seed=0, step=1, share=Share(16)).images.shape == images.shape


def test_configs_without_turns_keep_their_fingerprint() -> None:
    assert "turn_and_flip" not in AugmentConfig().to_json()
    on = AugmentConfig(turn_and_flip=True)
    assert AugmentConfig.from_json(on.to_json()) == on
