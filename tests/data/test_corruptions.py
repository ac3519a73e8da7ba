"""Corruptions: what each does to an image worked by hand, the same for the same case, more of it at more strength."""

import numpy as np
import pytest

from overread.data import corruptions
from overread.data.corruptions import CORRUPTIONS, STRENGTHS, conditions, corrupt
from overread.errors import UserError


def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def image() -> np.ndarray:
    rows, columns = np.mgrid[:24, :32]
    disc = ((rows - 12) ** 2 + (columns - 14) ** 2 < 60) + 0.2 * np.cos(rows / 3) * np.sin(columns / 4)
    volume = np.stack([disc, disc[::-1]])[None].astype(np.float32)
    return (volume - volume.mean()) / volume.std()


def test_conditions_are_clean_and_seven_corruptions_at_three_strengths() -> None:
    assert conditions()[0] == "clean" and len(conditions()) == 1 + 7 * 3


def test_every_corruption_is_deterministic_by_case_and_seed_and_grows(image: np.ndarray) -> None:
    found = {condition: corrupt(image, condition, "c1") for condition in conditions()}
    assert found["clean"] is image
    for name in CORRUPTIONS:
        np.testing.assert_array_equal(found[f"{name}-2"], corrupt(image, f"{name}-2", "c1"))
        distance = [float(np.abs(found[f"{name}-{s}"] - image).mean()) for s in STRENGTHS]
        assert 0 < distance[0] < distance[1] < distance[2], name
        for strength in STRENGTHS:
            changed = found[f"{name}-{strength}"]
            assert changed.shape == image.shape and changed.dtype == np.float32
            assert changed.mean() == pytest.approx(0, abs=1e-5) and changed.std() == pytest.approx(1, abs=1e-5)
    assert np.abs(corrupt(image, "noise-1", "c2") - found["noise-1"]).max() > 0
    assert np.abs(corrupt(image, "noise-1", "c1", seed=1) - found["noise-1"]).max() > 0


def test_noise_of_a_strength_has_its_standard_deviation() -> None:
    noise = corruptions.add_noise(np.zeros((1, 4, 50, 50)), 0.1, random())
    assert noise.std() == pytest.approx(0.1, rel=0.03)  # 10,000 values: 1 sd is 0.7 %


def test_bias_is_smooth_and_at_most_its_factor() -> None:
    field = np.log(corruptions.add_bias(np.ones((2, 3, 20, 30)), 0.6, random()))
    assert np.abs(field).max() == pytest.approx(0.6)
    assert (field == field[:1, :1]).all()  # one field for all slices and channels
    assert np.abs(np.diff(field, axis=-1)).max() < 0.6 / 2


def test_blur_spreads_a_point_and_keeps_its_sum() -> None:
    point = np.zeros((1, 1, 41, 41))
    point[0, 0, 20, 20] = 1.0
    spread = corruptions.blur(point, 2 / 41, random())[0, 0]  # sd of two pixels
    assert spread.sum() == pytest.approx(1.0)
    assert spread[20, 22] / spread[20, 20] == pytest.approx(np.exp(-0.5), rel=1e-6)


def test_motion_of_one_jump_shifts_a_band_of_the_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    waves = np.zeros((1, 1, 16, 16))
    rows, columns = np.mgrid[:16, :16]
    still = np.cos(2 * np.pi * columns / 16)  # row frequency 0: the band that stays
    moving = np.cos(2 * np.pi * (3 * rows / 16 + columns / 16))  # frequency 3/16 of at most 1/2: band 12 of 32
    waves[0, 0] = still + moving

    class Drawn:
        def uniform(self, low: float, high: float, size: int) -> np.ndarray:
            return np.isin(np.arange(size), (0, 12)) * 1.0  # band 12 jumps by all that is allowed; band 0 may not

    found = corruptions.add_motion(waves, 0.25, Drawn())  # type: ignore[arg-type]  # four pixels of 16
    expected = still + np.cos(2 * np.pi * (3 * rows / 16 + (columns - 4) / 16))
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-12)


def test_contrast_is_a_power_either_way() -> None:
    values = np.full((1, 1, 1, 1), 0.25)
    found = {round(float(corruptions.change_contrast(values, np.log(2), np.random.default_rng(i))[0, 0, 0, 0]), 12)
             for i in range(20)}  # fmt: skip
    assert found == {0.0625, 0.5}  # squared, or its root


def test_crop_blanks_one_side() -> None:
    shares = set()
    for seed in range(20):
        cut = corruptions.crop(np.ones((1, 2, 10, 20)), 0.2, np.random.default_rng(seed))[0, 0]
        sides = (cut[:2].any(), cut[-2:].any(), cut[:, :4].any(), cut[:, -4:].any())
        assert cut.mean() == pytest.approx(0.8) and sides.count(False) == 1
        shares.add(sides)
    assert len(shares) == 4


def test_resolution_averages_pixels() -> None:
    stripes = np.tile([0.0, 1.0], (1, 1, 8, 4))  # one pixel wide: half the resolution cannot show them
    found = corruptions.lower_resolution(stripes, 2.0, random())
    assert np.ptp(found[..., 2:-2]) < 0.3
    flat = np.full((1, 1, 6, 6), 0.7)
    np.testing.assert_allclose(corruptions.lower_resolution(flat, 3.0, random()), flat, atol=1e-6)


def test_a_constant_image_stays_without_nan() -> None:
    for condition in conditions():
        assert np.isfinite(corrupt(np.zeros((1, 1, 8, 8), np.float32), condition, "c")).all()


def test_unknown_conditions_are_refused(image: np.ndarray) -> None:
    with pytest.raises(UserError, match="strength of 1 to 3"):
        corrupt(image, "blur-4", "c")
    with pytest.raises(UserError, match="unknown corruption 'fog'"):
        corrupt(image, "fog-1", "c")
