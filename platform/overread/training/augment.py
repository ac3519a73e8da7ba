"""Random changes of whole batches on their device: quarter turns, flips, one affine (rotation and scale), intensity.

Random numbers come from a generator of their own, seeded by (seed, step), for the *global* batch; a rank takes those of
its samples. So they are the same after a resume and for any number of workers. Shapes: B batch, C channels, *S = (H, W)
or (D, H, W). Turns and flips are exact; the affine samples images and extras linearly, labels and instances by nearest
neighbour, all at the same points. Beyond the border everything is mirrored. Volumes rotate in the plane of their
slices only, because their spacing along D differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from overread.records import AugmentConfig, Batch
from overread.training.seeds import generator_for


@dataclass(frozen=True)
class Share:
    """Which samples of the global batch are here: `rank`, `rank + world_size`, ..."""

    size: int
    """Samples of the global batch."""
    rank: int = 0
    world_size: int = 1

    def take(self, values: Tensor) -> Tensor:
        """Return the rows of this rank."""
        return values[self.rank :: self.world_size]

    @property
    def local(self) -> int:
        """Samples of this rank."""
        return len(range(self.rank, self.size, self.world_size))


@dataclass(frozen=True)
class Draws:
    """Random numbers for the samples of one rank, on the CPU."""

    flips: Tensor
    """(B, number of spatial axes) bool."""
    angles: Tensor
    """(B,) radians, 0 where there is no affine."""
    scales: Tensor
    """(B,), 1 where there is no affine."""
    gains: Tensor
    """(B, C), 1 where unchanged."""
    shifts: Tensor
    """(B, C), 0 where unchanged."""
    turns: Tensor | None = None
    """(B,) quarter turns, 0..3; None: nothing turns."""


def augment(batch: Batch, config: AugmentConfig, *, seed: int, step: int, share: Share) -> Batch:
    """Return the batch with random changes; its partner is changed by draws of its own."""
    generator = generator_for(seed, step)
    changed = _change(batch, draw(config, batch, share, generator))
    if batch.partner is not None:
        changed.partner = _change(batch.partner, draw(config, batch.partner, share, generator))
    return changed


def draw(config: AugmentConfig, batch: Batch, share: Share, generator: torch.Generator) -> Draws:
    """Draw for the global batch and keep this rank's rows."""
    size, channels, axes = share.size, batch.images.shape[1], batch.images.ndim - 2

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    flips = (torch.rand((size, axes), generator=generator) < 0.5) & config.flip
    moved = (torch.rand(size, generator=generator) < config.probability).float()
    tinted = (torch.rand((size, 1), generator=generator) < config.probability).float()
    angles = uniform(size) * math.radians(config.rotate_degrees) * moved
    scales = torch.exp(uniform(size) * math.log1p(config.scale) * moved)
    gains = 1 + uniform(size, channels) * config.intensity * tinted
    shifts = uniform(size, channels) * config.intensity * tinted
    turns = torch.zeros(size, dtype=torch.long)
    if config.turn_and_flip:  # drawn last: the other draws are those of a config without it
        chosen = torch.rand(size, generator=generator) < 0.5
        turns = torch.randint(4, (size,), generator=generator) * chosen
        if batch.images.shape[-2] != batch.images.shape[-1]:
            turns = turns // 2 * 2  # only half turns keep sides of different length
        axis = torch.randint(2, (size, 1), generator=generator)
        flips[:, -2:] ^= (axis == torch.arange(2)) & chosen[:, None]
        angles, scales = angles * ~chosen, torch.where(chosen, 1.0, scales)
    return Draws(*(share.take(values) for values in (flips, angles, scales, gains, shifts, turns)))


def _change(batch: Batch, draws: Draws) -> Batch:
    """Return the batch changed as drawn, without its partner."""

    def move(values: Tensor, *, nearest: bool = False) -> Tensor:
        return _affine(_flip(_turn(values, draws.turns), draws.flips), draws, nearest=nearest)

    def ids(values: Tensor) -> Tensor:
        return move(values, nearest=True)

    moved = replace(batch, partner=None).map(images=move, ids=ids)
    return replace(moved, images=_tint(moved.images, draws))


def _turn(values: Tensor, turns: Tensor | None) -> Tensor:
    """Turn each sample in its plane by so many quarters (B,), from the rows to the columns: a permutation, exact."""
    if turns is None:
        return values
    for quarters in range(1, 4):
        rows = (turns == quarters).nonzero()[:, 0].to(values.device, non_blocking=True)
        if rows.numel():
            values = values.index_copy(0, rows, values[rows].rot90(quarters, (-2, -1)))
    return values


def _flip(values: Tensor, flips: Tensor) -> Tensor:
    """Mirror the samples chosen by `flips` (B, axes) along each spatial axis: a permutation of the voxels, exact."""
    for axis in range(flips.shape[1]):
        if bool(flips[:, axis].any()):
            chosen = flips[:, axis].reshape(-1, *(1,) * (values.ndim - 1)).to(values.device, non_blocking=True)
            values = torch.where(chosen, values.flip(axis + 2), values)
    return values


def _affine(values: Tensor, draws: Draws, *, nearest: bool) -> Tensor:
    """Rotate and scale the samples that drew a change; (B, C, *S) of any type, ids stay ids when `nearest`."""
    rows = ((draws.angles != 0) | (draws.scales != 1)).nonzero()[:, 0]
    if rows.numel() == 0 or values.shape[1] == 0:
        return values
    spatial = tuple(values.shape[2:])
    thetas = _thetas(draws.angles[rows], draws.scales[rows], spatial).to(values.device, non_blocking=True)
    rows = rows.to(values.device, non_blocking=True)
    chosen = values[rows].float()
    grid = F.affine_grid(thetas, [len(rows), 1, *spatial], align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    moved = F.grid_sample(chosen, grid, mode=mode, padding_mode="reflection", align_corners=False)
    return values.index_copy(0, rows, moved.to(values.dtype))


def _thetas(angles: Tensor, scales: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """Return (B, 2, 3) or (B, 3, 4): output to input, coordinates -1..1, ordered (x, y[, z]) for `affine_grid`."""
    height, width = spatial[-2:]
    cosine, sine, dims = angles.cos() / scales, angles.sin() / scales, len(spatial)
    thetas = torch.zeros(len(angles), dims, dims + 1)
    thetas[:, 0, 0], thetas[:, 0, 1] = cosine, -sine * (height / width)  # coordinates are per side: keep angles true
    thetas[:, 1, 0], thetas[:, 1, 1] = sine * (width / height), cosine
    if dims == 3:
        thetas[:, 2, 2] = 1 / scales
    return thetas


def _tint(images: Tensor, draws: Draws) -> Tensor:
    """Change contrast and brightness per sample and channel (images are z-scored)."""
    shape = (*draws.gains.shape, *(1,) * (images.ndim - 2))
    gains = draws.gains.reshape(shape).to(images.device, images.dtype, non_blocking=True)
    shifts = draws.shifts.reshape(shape).to(images.device, images.dtype, non_blocking=True)
    return images * gains + shifts
