"""Corruptions of prepared images, as scanners and exports make them, at three strengths. NumPy and SciPy.

A corruption works on intensities in 0..1 (the least and largest of the case) and in plane: slices stay where they are,
as `preprocess` never resamples across them. The result is brought to z-scores per channel. A prepared image has them
before it is resized, which leaves a little less than spread 1 (0.94 to 1 on the sets measured), so any corruption also
raises the contrast by as much. The truth of a case stays: what a corruption hides is still there to be missed.

Random parts (the noise, the field, the side that is cut off) are drawn from the name of the corruption, the case and a
seed, and not from the strength: a stronger corruption is more of the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overread.data.preprocess import resize_matrix
from overread.errors import UserError
from overread.registry import Registry

Image = NDArray[np.float32]
"""(C, D, H, W)."""
Floats = NDArray[np.float64]
CLEAN = "clean"
STRENGTHS = (1, 2, 3)
MOTION_SEGMENTS = 32


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption."""

    name: str
    levels: tuple[float, float, float]
    """Its parameter at strengths 1, 2 and 3."""
    apply: Callable[[Floats, float, np.random.Generator], Floats]
    """From an image in 0..1 (C, D, H, W) and the parameter to the corrupted image, any range."""
    parameter: str
    """What the levels are."""


CORRUPTIONS: Registry[Corruption] = Registry("corruption")


def conditions() -> tuple[str, ...]:
    """Return `clean` and every corruption at every strength, such as `blur-2`."""
    return (CLEAN, *(f"{name}-{strength}" for name, strength in product(CORRUPTIONS, STRENGTHS)))


def corrupt(image: Image, condition: str, case: str, seed: int = 0) -> Image:
    """Return a prepared image (C, D, H, W) in a condition of `conditions`; another name raises `UserError`."""
    if condition == CLEAN:
        return image
    name, _, strength = condition.rpartition("-")
    if strength not in map(str, STRENGTHS):
        raise UserError(
            f"a condition must be a corruption and a strength of 1 to 3, such as blur-2, but got {condition}"
        )
    corruption = CORRUPTIONS[name]
    low, high = float(image.min()), float(image.max())
    unit = (image.astype(np.float64) - low) / (high - low if high > low else 1.0)
    return _standardised(corruption.apply(unit, corruption.levels[int(strength) - 1], _generator(name, case, seed)))


def _generator(name: str, case: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{case}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _standardised(image: Floats) -> Image:
    """Return z-scores per channel; a constant channel is 0."""
    centred = image - image.mean((1, 2, 3), keepdims=True)
    spread = centred.std((1, 2, 3), keepdims=True)
    return (centred / np.where(spread > 1e-12, spread, 1.0)).astype(np.float32)


def add_noise(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Add independent Gaussian noise of standard deviation `level` to every voxel."""
    return image + level * generator.standard_normal(image.shape)


def add_bias(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Multiply by exp(level f), f a smooth field of largest absolute value 1, the same for all slices and channels.

    f is a polynomial of degree 3 in the in-plane coordinates with coefficients drawn from -1..1.
    """
    rows, columns = (np.linspace(-1, 1, side) for side in image.shape[-2:])
    powers = [(i, j) for i, j in product(range(4), range(4)) if 0 < i + j <= 3]
    coefficients = generator.uniform(-1, 1, len(powers))
    field = sum(c * rows[:, None] ** i * columns[None, :] ** j for c, (i, j) in zip(coefficients, powers, strict=True))
    return image * np.exp(level * field / np.abs(field).max())


def blur(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Smooth in plane by a Gaussian whose standard deviation is the share `level` of the longer side."""
    sigma = level * max(image.shape[-2:])
    return np.asarray(ndimage.gaussian_filter(image, (0, 0, sigma, sigma), mode="nearest"))


def add_motion(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Let the object jump between the segments in which the rows of its in-plane spectrum are measured (ghosts).

    The spectrum is cut into 32 bands of rows; the one with the mean stays, each other is that of the image shifted
    along the columns by up to the share `level` of their number. A band and its mirror jump together, so the image is
    real.
    """
    height, width = image.shape[-2:]
    spectrum = np.fft.fft2(image)
    shifts = level * width * generator.uniform(-1, 1, MOTION_SEGMENTS)
    shifts[0] = 0.0
    frequency = np.abs(np.fft.fftfreq(height))  # 0 .. 0.5, the same for a row and its mirror
    segment = np.minimum((frequency * 2 * MOTION_SEGMENTS).astype(np.intp), MOTION_SEGMENTS - 1)
    turn = np.exp(-2j * np.pi * np.fft.fftfreq(width)[None, :] * shifts[segment][:, None])
    return np.asarray(np.fft.ifft2(spectrum * turn).real)


def change_contrast(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Raise to the power exp(level) or exp(-level), drawn by case: dark parts lose their contrast, or bright ones."""
    return np.asarray(np.power(image, np.exp(level if generator.random() < 0.5 else -level)))


def crop(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Set the share `level` at one of the four sides, drawn by case, to 0: the field of view ends there."""
    cut = image.copy()
    axis, end = divmod(int(generator.integers(4)), 2)
    moved = np.moveaxis(cut, 2 + axis, 0)
    width = round(level * len(moved))
    moved[len(moved) - width if end else 0 : None if end else width] = 0.0
    return cut


def lower_resolution(image: Floats, level: float, generator: np.random.Generator) -> Floats:
    """Shrink both in-plane sides to the share 1 / `level` and enlarge them again, linearly."""
    for axis in (2, 3):
        side = image.shape[axis]
        small = max(1, round(side / level))
        there_and_back = resize_matrix(small, side) @ resize_matrix(side, small)
        image = np.moveaxis(np.moveaxis(image, axis, -1) @ there_and_back.T, -1, axis)
    return image


for _corruption in (
    Corruption("noise", (0.05, 0.1, 0.2), add_noise, "sd, share of the range"),
    Corruption("bias", (0.3, 0.6, 1.0), add_bias, "largest log factor"),
    Corruption("blur", (0.01, 0.02, 0.04), blur, "sd, share of the longer side"),
    Corruption("motion", (0.03, 0.08, 0.2), add_motion, "largest shift, share of the width"),
    Corruption("contrast", (0.3, 0.7, 1.2), change_contrast, "log of the power"),
    Corruption("crop", (0.1, 0.2, 0.35), crop, "share of a side"),
    Corruption("resolution", (2.0, 3.0, 5.0), lower_resolution, "factor"),
):
    CORRUPTIONS.add(_corruption.name, _corruption)
