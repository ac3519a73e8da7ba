"""Multi-crop views of DINO (Caron et al. 2021, section 3.1 and appendix) on whole batches of standardised slices.

Two global crops of a large part of the image and some local crops of a small part, each resized, flipped at random,
and changed in intensity: contrast and brightness (chance 0.8), Gaussian blur (1 for the first global crop, 0.1 for the
second, 0.5 for local ones) and, for the second global crop, solarisation (0.2): what lies above the mean is mirrored at
it. All channels are changed alike, with a little of their own in place of DINO's hue and saturation; crops are sampled
bilinearly, there bicubically. Random numbers follow from (seed, step) for the global batch, and a rank takes its share:
they are the same after a resume and for any number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.training.augment import Share
from overread.training.seeds import generator_for

GLOBAL_CROPS = 2
BLUR = (1.0, 0.1, 0.5)
"""Chance of blur of the first global crop, the second, and the local ones."""
SOLARISE = (0.0, 0.2, 0.0)
TINT = 0.8
"""Chance of a change of contrast and brightness."""
RATIO = (3 / 4, 4 / 3)
"""Width / height of a crop, before it is resized to a square."""
SIGMA = (0.1, 2.0)
"""Of the blur, in pixels of a crop of `REFERENCE` pixels."""
REFERENCE = 224
STREAM = 1
"""Of the random numbers: apart from those that choose the images."""


@dataclass(frozen=True, kw_only=True)
class MultiCrop(JsonRecord):
    """Sizes and scales of the crops; the defaults are DINO's at the image size of DAI-Net."""

    size: int = 256
    """Side of a global crop in pixels; also that of the square which images are resized to."""
    local_size: int = 96
    local_crops: int = 8
    """0: the two global crops alone."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area in a global crop."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    flip: bool = True
    """Mirror left and right with chance 1/2."""
    intensity: float = 0.4
    """Largest change of contrast (relative) and brightness (in standard deviations); 0 switches it off."""

    def __post_init__(self) -> None:
        for name in ("size", "local_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.local_crops < 0:
            raise UserError(f"local_crops must be at least 0, but got {self.local_crops}")
        for name in ("scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UserError(f"{name} must be a share of the area, 0 < low <= high <= 1, but got {low}, {high}")
        if not 0 <= self.intensity < 1:
            raise UserError(f"intensity must be in [0, 1), but got {self.intensity}")


@dataclass(frozen=True)
class Draws:
    """Random numbers of one view for the samples of one rank, on the CPU."""

    thetas: Tensor
    """(B, 2, 3): crop and flip, output to input, for `affine_grid`."""
    gains: Tensor
    """(B, C, 1, 1), 1 where unchanged."""
    shifts: Tensor
    """(B, C, 1, 1), 0 where unchanged."""
    sigmas: Tensor
    """(B,) in pixels of the crop, 0 where not blurred."""
    solarised: Tensor
    """(B, 1, 1, 1) bool."""


def multi_crop(images: Tensor, settings: MultiCrop, *, seed: int, step: int, share: Share) -> list[Tensor]:
    """Return the views of square images (B, C, S, S): two (B, C, size, size), the others (B, C, local_size, ...)."""
    generator = generator_for(seed, step, STREAM)
    views = range(GLOBAL_CROPS + settings.local_crops)
    draws = [draw(view, images.shape[1], settings, share, generator) for view in views]
    return [
        change(images, drawn, settings.size if view < GLOBAL_CROPS else settings.local_size)
        for view, drawn in zip(views, draws, strict=True)
    ]


def draw(view: int, channels: int, settings: MultiCrop, share: Share, generator: torch.Generator) -> Draws:
    """Draw one view for the global batch and keep this rank's rows."""
    size, kind = share.size, min(view, GLOBAL_CROPS)
    side = settings.size if view < GLOBAL_CROPS else settings.local_size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def chance(probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    area = uniform(*(settings.scale if view < GLOBAL_CROPS else settings.local_scale), size)
    ratio = torch.exp(uniform(math.log(RATIO[0]), math.log(RATIO[1]), size))
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp_max(1)  # width and height of 1
    centres = uniform(-1, 1, size, 2) * (1 - sides)  # in -1..1, so that the crop stays inside
    mirrored = torch.where(chance(0.5, size) & settings.flip, -1.0, 1.0)
    thetas = torch.zeros(size, 2, 3)
    thetas[:, 0, 0], thetas[:, 1, 1], thetas[:, :, 2] = sides[:, 0] * mirrored, sides[:, 1], centres
    strength = settings.intensity * chance(TINT, size, 1, 1, 1).float()
    gains, shifts = (
        (uniform(-1, 1, size, 1, 1, 1) + uniform(-1, 1, size, channels, 1, 1) / 4) / 1.25 * strength for _ in range(2)
    )
    sigmas = uniform(*SIGMA, size) * chance(BLUR[kind], size) * side / REFERENCE
    solarised = chance(SOLARISE[kind], size, 1, 1, 1)
    return Draws(*(share.take(values) for values in (thetas, 1 + gains, shifts, sigmas, solarised)))


def change(images: Tensor, draws: Draws, side: int) -> Tensor:
    """Return one view (B, C, side, side) of images (B, C, S, S) as drawn."""
    place = images.device
    grid = F.affine_grid(draws.thetas.to(place), [*images.shape[:2], side, side], align_corners=False)
    view = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    view = view * draws.gains.to(place) + draws.shifts.to(place)
    view = blur(view, draws.sigmas, radius=math.ceil(3 * SIGMA[1] * side / REFERENCE))
    return torch.where(draws.solarised.to(place) & (view > 0), -view, view)


def blur(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Return images (B, C, H, W) blurred by a Gaussian of each sample's sigma (B,) in pixels, cut at `radius`.

    Sigma 0 leaves a sample as it is.
    """
    if not bool(sigmas.any()):
        return images
    batch, channels, height, width = images.shape
    offsets = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (offsets / sigmas[:, None].clamp_min(1e-3)) ** 2)  # of sigma 0: 1 in the middle
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images.device).repeat_interleave(channels, 0)[:, None]
    flat = images.reshape(1, batch * channels, height, width)
    for kernel, pads in ((kernels[:, :, None], (radius, radius, 0, 0)), (kernels[..., None], (0, 0, radius, radius))):
        flat = F.conv2d(F.pad(flat, pads, mode="replicate"), kernel, groups=batch * channels)
    return flat.reshape(images.shape)
