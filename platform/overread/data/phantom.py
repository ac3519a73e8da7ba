"""The phantom data set: images made from a seed, whose difficulty is known for every case.

A case is a soft-edged body with one soft-edged organ per foreground class, blobs that belong to no class, a smooth bias
field, texture and noise. Its difficulty in [0, 1] is drawn before anything else and alone sets the mean contrast, organ
size, noise, border softness and number of blobs: a grade that no segmentation or confidence code has any part in.
Annotators trace the soft border at different heights, so they disagree most where the border is softest.

Files: `kind="2d"` with one channel gives an image folder, `kind="3d"` with one annotator a Decathlon folder, all else
the nnU-Net layout. Several annotators have a subfolder each. `difficulty.csv` has `case,difficulty`.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from overread.data.phantom_files import write_decathlon, write_folder, write_nnunet
from overread.errors import UserError
from overread.jsonio import JsonRecord, write_bytes
from overread.records import Layout

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PhantomSettings(JsonRecord):
    """Which phantom to make. Equal settings give equal files."""

    kind: Literal["2d", "3d"] = "2d"
    cases: int = 40
    size: int = 64
    """Pixels per in-plane side."""
    depth: int = 16
    """Slices of a 3-D case, spaced so that the volume is a cube of `size` mm."""
    classes: int = 3
    """With background."""
    annotators: int = 1
    channels: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"cases": 1, "size": 16, "depth": 4, "classes": 2, "annotators": 1, "channels": 1, "seed": 0}
        wrong = [
            f"{k} must be at least {v}, but got {getattr(self, k)}" for k, v in least.items() if getattr(self, k) < v
        ]
        if self.kind not in ("2d", "3d"):
            wrong.append(f"kind must be 2d or 3d, but got {self.kind!r}")
        if self.depth > self.size:
            wrong.append(f"depth must be at most size, but got {self.depth} > {self.size}")
        if wrong:
            raise UserError(*wrong)

    @property
    def layout(self) -> Layout:
        """Layout of the files: the simplest that can hold these channels and annotators."""
        if self.kind == "2d" and self.channels == 1:
            return "folder"
        return "msd" if self.kind == "3d" and self.annotators == 1 else "nnunet"

    @property
    def slice_spacing(self) -> float:
        """Distance of slices in mm; pixels are 1 mm."""
        return self.size / self.depth


@dataclass(frozen=True)
class PhantomCase:
    """One generated case: image (C, *S) float, labels (A, *S) class ids; S = (rows, columns) or (X, Y, Z)."""

    id: str
    difficulty: float
    image: Floats
    labels: NDArray[np.uint8]


def grades(settings: PhantomSettings) -> tuple[float, ...]:
    """Return the difficulty of every case: evenly spaced over [0, 1], in seeded random order."""
    rng = np.random.default_rng((settings.seed, 0))
    return tuple(round(float(d), 6) for d in rng.permutation(np.linspace(0.0, 1.0, settings.cases)))


def make_case(settings: PhantomSettings, index: int, difficulty: float) -> PhantomCase:
    """Generate case `index` of the phantom at a difficulty in [0, 1]."""
    rng = np.random.default_rng((settings.seed, 1, index))
    grid = _grid(settings)
    softness = 0.6 + 1.6 * difficulty
    borders = _organ_borders(rng, settings, grid, difficulty)
    image = _draw(rng, settings, grid, [expit(border / softness) for border in borders], difficulty)
    labels = np.stack([_annotate(rng, settings, borders, softness, a) for a in range(settings.annotators)])
    return PhantomCase(f"phantom_{index:03d}", difficulty, image, labels)


def write_phantom(root: Path, settings: PhantomSettings) -> Path:
    """Write the phantom as a data set that `read_dataset` recognises; `root` must be new or empty. Return `root`."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"the phantom's folder {root} must be new or empty, but it is not: choose another one")
    write = {"folder": write_folder, "msd": write_decathlon, "nnunet": write_nnunet}[settings.layout]
    cases = [make_case(settings, index, difficulty) for index, difficulty in enumerate(grades(settings))]
    write(root, settings, cases)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("case", "difficulty"), *((case.id, case.difficulty) for case in cases)]
    )
    write_bytes(root / "difficulty.csv", table.getvalue().encode())
    return root


def read_difficulty(root: Path) -> dict[str, float]:
    """Return the known difficulty by case id of a phantom on disk."""
    path = root / "difficulty.csv"
    if not path.is_file():
        raise UserError(f"{path} must exist, but it does not: only phantoms have a known difficulty")
    with path.open(newline="") as lines:
        return {row["case"]: float(row["difficulty"]) for row in csv.DictReader(lines)}


# ---------------------------------------------------------------- geometry; all lengths in pixels


def _grid(settings: PhantomSettings) -> list[Floats]:
    """Coordinates of every voxel from the centre, in pixels, one array per axis."""
    plane = np.arange(settings.size, dtype=np.float32) - (settings.size - 1) / 2
    axes = [plane, plane]
    if settings.kind == "3d":
        slices = np.arange(settings.depth, dtype=np.float32) - (settings.depth - 1) / 2
        axes.append(slices * np.float32(settings.slice_spacing))
    return list(np.meshgrid(*axes, indexing="ij"))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], knots: int) -> Floats:
    """A smooth random field of about unit variance: a coarse random grid, interpolated by cubic splines."""
    field: Floats = rng.standard_normal((knots,) * len(shape)).astype(np.float32)
    for length in shape:  # each pass interpolates the first axis and moves it to the end
        field = np.tensordot(field, _splines(knots, length), axes=(0, 1))
    return field


@lru_cache(maxsize=32)
def _splines(knots: int, length: int) -> Floats:
    """Matrix (length, knots) of cubic spline interpolation along one axis."""
    unit = np.eye(knots, dtype=np.float32)
    return np.asarray(ndimage.zoom(unit, (length / knots, 1), order=3, mode="nearest", grid_mode=True), np.float32)


def _ellipse(grid: list[Floats], centre: Floats, radii: Floats, angle: float) -> Floats:
    """Depth under the border of an ellipse (ellipsoid) rotated in plane, in pixels: positive inside."""
    offsets = [axis - c for axis, c in zip(grid, centre, strict=True)]
    cosine, sine = np.cos(angle), np.sin(angle)
    offsets[:2] = [cosine * offsets[0] + sine * offsets[1], cosine * offsets[1] - sine * offsets[0]]
    squares = [(offset / radius) ** 2 for offset, radius in zip(offsets, radii, strict=True)]
    distance = np.sqrt(np.sum(squares, axis=0, dtype=np.float32))
    return np.asarray((1 - distance) * np.min(radii), dtype=np.float32)


def _organ_borders(
    rng: np.random.Generator, settings: PhantomSettings, grid: list[Floats], difficulty: float
) -> list[Floats]:
    """Depth under the border of each organ: organs sit around the centre, in class order, with wobbling outlines."""
    organs = settings.classes - 1
    turn = rng.uniform(-0.6, 0.6)
    room = 0.17 if organs <= 2 else 0.13
    borders = []
    for k in range(organs):
        angle = turn + 2 * np.pi * k / organs
        centre = np.zeros(len(grid), dtype=np.float32)
        centre[:2] = settings.size * rng.uniform(0.18, 0.24) * np.array([np.cos(angle), np.sin(angle)])
        centre += rng.uniform(-0.03, 0.03, len(grid)) * settings.size
        mean_radius = settings.size * (room - 0.05 * difficulty) * rng.uniform(0.85, 1.15)
        radii = (mean_radius * rng.uniform(0.8, 1.25, len(grid))).astype(np.float32)
        wobble = 0.14 * mean_radius * _smooth_noise(rng, grid[0].shape, 5)
        borders.append(_ellipse(grid, centre, radii, rng.uniform(0, np.pi)) + wobble)
    return borders


# ---------------------------------------------------------------- intensities and annotations


def _draw(
    rng: np.random.Generator, settings: PhantomSettings, grid: list[Floats], organs: list[Floats], difficulty: float
) -> Floats:
    """Intensities (C, *S): air -0.8, patchy tissue about 0, organs +-contrast; odd channels show organs inverted."""
    shape = grid[0].shape
    contrast = (1.0 - 0.78 * difficulty) * rng.uniform(0.9, 1.1)
    body = _body(rng, settings, grid)
    parts = [(organ, contrast if k % 2 == 0 else -contrast) for k, organ in enumerate(organs)]
    parts += [(blob, contrast * rng.choice((-1.0, 1.0))) for blob in _blobs(rng, settings, grid, organs, difficulty)]
    tissue = sum((level * part for part, level in parts), start=np.zeros(shape, np.float32))
    channels = []
    for channel in range(settings.channels):
        patches = 0.17 * _smooth_noise(rng, shape, 9) * body
        bias = (0.12 + 0.13 * difficulty) * _smooth_noise(rng, shape, 3)
        grain = 0.7 * rng.standard_normal(shape) + 1.5 * ndimage.gaussian_filter(rng.standard_normal(shape), 1.0)
        noise = (0.12 + 0.22 * difficulty) * grain
        channels.append(0.8 * body - 0.8 + (-0.6 if channel % 2 else 1.0) * tissue + patches + bias + noise)
    return np.stack(channels).astype(np.float32)


def _body(rng: np.random.Generator, settings: PhantomSettings, grid: list[Floats]) -> Floats:
    """Soft mask of the body: bodies differ in place, size, direction and outline as patients do."""
    size = settings.size
    centre = rng.uniform(-0.06, 0.06, len(grid)).astype(np.float32) * size
    radii = rng.uniform(0.40, 0.52, len(grid)).astype(np.float32) * size
    outline = _ellipse(grid, centre, radii, rng.uniform(0, np.pi)) + 0.03 * size * _smooth_noise(rng, grid[0].shape, 5)
    return np.asarray(expit(outline / 1.5), dtype=np.float32)


def _blobs(
    rng: np.random.Generator, settings: PhantomSettings, grid: list[Floats], organs: list[Floats], difficulty: float
) -> list[Floats]:
    """Small bright or dark spots outside the organs, more of them in hard cases: they belong to no class."""
    free = 1 - np.max(organs, axis=0)
    blobs = []
    for _ in range(round(1 + 4 * difficulty)):
        centre = rng.uniform(-0.35, 0.35, len(grid)).astype(np.float32) * settings.size
        radii = rng.uniform(0.03, 0.06, len(grid)).astype(np.float32) * settings.size
        blobs.append((expit(_ellipse(grid, centre, radii, 0.0) / 0.6) * free).astype(np.float32))
    return blobs


def _annotate(
    rng: np.random.Generator, settings: PhantomSettings, borders: list[Floats], softness: float, annotator: int
) -> NDArray[np.uint8]:
    """Class ids as one annotator draws them. One annotator alone draws the exact middle of the soft border.

    Several have a habit each, from generous to strict, and an unsteady hand; both grow with the softness of the border.
    """
    depth = np.stack(borders)
    if settings.annotators > 1:
        habit = 2 * annotator / (settings.annotators - 1) - 1
        depth = depth - softness * (0.8 * habit + 0.3 * _smooth_noise(rng, borders[0].shape, 6))
    return np.where(depth.max(axis=0) > 0, depth.argmax(axis=0) + 1, 0).astype(np.uint8)
