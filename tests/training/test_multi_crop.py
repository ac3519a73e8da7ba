from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from overread.errors import UserError
from overread.training.augment import Share
from overread.training.multi_crop import Draws, MultiCrop, blur, change, draw, multi_crop
from overread.training.seeds import generator_for

SMALL = MultiCrop(size=16, local_size=8, local_crops=3)


def images(count: int = 4, channels: int = 1, side: int = 24) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def views(batch: Tensor, step: int = 0, share: Share | None = None, settings: MultiCrop = SMALL) -> list[Tensor]:
    return multi_crop(batch, settings, seed=1, step=step, share=share or Share(len(batch)))


def drawn(view: int, count: int = 400, settings: MultiCrop = SMALL) -> Draws:
    return draw(view, 2, settings, Share(count), generator_for(0))


def still(count: int = 1, channels: int = 1) -> Draws:
    """Return draws that change nothing."""
    thetas = torch.eye(2, 3).repeat(count, 1, 1)
    ones = torch.ones(count, channels, 1, 1)
    return Draws(thetas, ones, 0 * ones, torch.zeros(count), torch.zeros(count, 1, 1, 1, dtype=torch.bool))


def test_two_global_and_the_local_views() -> None:
    found = views(images(channels=2))
    assert [tuple(view.shape) for view in found] == [(4, 2, 16, 16)] * 2 + [(4, 2, 8, 8)] * 3
    assert len(views(images(), settings=replace(SMALL, local_crops=0))) == 2


def test_views_follow_from_the_step_and_differ_between_steps_views_and_images() -> None:
    batch = images(1).repeat(4, 1, 1, 1)
    first = views(batch)
    assert all(torch.equal(a, b) for a, b in zip(first, views(batch), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(first, views(batch, step=1), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0][0], first[0][1])


def test_two_workers_have_the_views_of_one() -> None:
    batch = images(5)
    whole = views(batch)
    for rank in (0, 1):
        share = Share(5, rank, 2)
        for part, all_rows in zip(views(share.take(batch), share=share), whole, strict=True):
            torch.testing.assert_close(part, share.take(all_rows))


def test_crops_lie_inside_the_image_and_have_their_share_of_its_area() -> None:
    for view, (low, high) in ((0, SMALL.scale), (2, SMALL.local_scale)):
        thetas = drawn(view).thetas
        width, height = thetas[:, 0, 0].abs(), thetas[:, 1, 1]
        assert (thetas[:, :, 2].abs() + torch.stack([width, height], 1) <= 1 + 1e-6).all()
        area, inside = width * height, (width < 1) & (height < 1)
        assert ((area[inside] > low - 1e-6) & (area[inside] < high + 1e-6)).all()
        assert (area <= high + 1e-6).all()
        ratio = (width / height)[inside]
        assert ratio.min() >= 0.749
        assert ratio.max() <= 1.334
    mirrored = (drawn(0).thetas[:, 0, 0] < 0).float().mean()
    assert 0.4 < mirrored < 0.6
    assert (drawn(0, settings=replace(SMALL, flip=False)).thetas[:, 0, 0] > 0).all()


def test_chances_of_blur_and_solarisation() -> None:
    first, second, local = drawn(0), drawn(1), drawn(2)
    assert (first.sigmas > 0).all()
    assert 0.05 < (second.sigmas > 0).float().mean() < 0.15
    assert 0.4 < (local.sigmas > 0).float().mean() < 0.6
    assert first.sigmas.max() <= 2 * 16 / 224
    assert local.sigmas.max() <= 2 * 8 / 224
    assert not first.solarised.any()
    assert not local.solarised.any()
    assert 0.15 < second.solarised.float().mean() < 0.25
    assert 0.75 < (first.shifts[:, 0, 0, 0] != 0).float().mean() < 0.85
    assert (first.gains - 1).abs().max() <= 0.4
    plain = drawn(0, settings=replace(SMALL, intensity=0.0))
    assert (plain.gains == 1).all()
    assert (plain.shifts == 0).all()


def test_a_crop_by_hand() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    torch.testing.assert_close(change(x, still(), 8), x)
    right_half = still()
    right_half.thetas[0] = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.0]])  # columns 4..7, rows 2..5
    torch.testing.assert_close(change(x, right_half, 4), x[:, :, 2:6, 4:])
    right_half.thetas[0, 0, 0] = -0.5
    torch.testing.assert_close(change(x, right_half, 4), x[:, :, 2:6, 4:].flip(3))


def test_contrast_brightness_and_solarisation_by_hand() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0]).reshape(1, 1, 2, 2)
    tinted = replace(still(), gains=torch.full((1, 1, 1, 1), 2.0), shifts=torch.full((1, 1, 1, 1), -1.0))
    assert change(x, tinted, 2).flatten().tolist() == [-3.0, -1.0, 0.0, 3.0]
    solarised = replace(still(), solarised=torch.ones(1, 1, 1, 1, dtype=torch.bool))
    assert change(x, solarised, 2).flatten().tolist() == [-1.0, 0.0, -0.5, -2.0]


def test_blur_spreads_a_point_by_its_sigma_and_leaves_others() -> None:
    x = torch.zeros(3, 2, 33, 33)
    x[:, :, 16, 16] = 1
    found = blur(x, torch.tensor([0.0, 2.0, 1.0]), radius=8)
    assert torch.equal(found[0], x[0])
    offsets = torch.arange(33.0) - 16
    for sample, sigma in ((1, 2.0), (2, 1.0)):
        torch.testing.assert_close(found[sample].sum((1, 2)), torch.ones(2))
        rows = found[sample, 0].sum(1)
        assert math.sqrt(float((rows * offsets**2).sum())) == pytest.approx(sigma, rel=0.01)
    torch.testing.assert_close(blur(torch.ones(1, 1, 9, 9), torch.ones(1), radius=3), torch.ones(1, 1, 9, 9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size"),
        ({"local_crops": -1}, "local_crops"),
        ({"scale": [0.5, 0.4]}, "scale must be a share"),
        ({"local_scale": [0.0, 0.4]}, "local_scale must be a share"),
        ({"intensity": 1.0}, "intensity"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiCrop.from_json(settings)
