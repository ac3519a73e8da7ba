"""Attention maps of a frozen DINO teacher as a further input of a network (Yeganeh et al. 2023, "DAI-Net", step 1).

Each slice is standardised and resized to a square, grey is repeated to three channels, and the maps of the last block's
CLS token are taken (`ViT.attention_maps`); they are enlarged to pixels by nearest neighbour, brought to the slice's
size bilinearly, and each is scaled to 0..1 by its own minimum and maximum. Nothing here is trained: maps are computed
once per case and stored under `Extra.key`, a hash of the teacher's weights and of all settings.
Differs from the reference script: each slice gets zero mean and unit variance of itself, instead of the mean and
variance of ImageNet; images of several channels other than three give their mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import nearest
from overread.architectures.contract import Pretrained
from overread.architectures.vit import ViT, ViTOptions, as_rgb, as_square, official_name, standardised
from overread.errors import UserError
from overread.jsonio import JsonRecord, fingerprint
from overread.records import Extra

VERSION = 2
"""Raise when maps of equal weights and settings change."""
RANDOM_SEED = 0
"""Of the weights where no teacher is named: its own, so that the key of their maps tells all about them."""
SLICES = 16
"""Slices whose attention is in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(JsonRecord):
    """Which teacher looks at the images, and how."""

    vit: ViTOptions = field(default_factory=ViTOptions)
    image_size: int = 256
    """Side of the square that slices are resized to; a multiple of the patch."""
    teacher: str | None = None
    """Absolute path of the teacher's weights, read when a training starts; None: random weights, a smoke test only."""
    teacher_sha256: str | None = None
    """SHA-256 (hex) of that file: what maps are stored under, and what the file must have."""

    def __post_init__(self) -> None:
        if self.image_size < self.vit.patch or self.image_size % self.vit.patch:
            raise UserError(
                f"image_size must be a multiple of the patch, {self.vit.patch} pixels, but got {self.image_size}"
            )
        if (self.teacher is None) != (self.teacher_sha256 is None):
            raise UserError("teacher and teacher_sha256 must be given together, but only one was")
        if self.teacher_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.teacher_sha256):
            raise UserError(f"teacher_sha256 must be 64 hex digits, but got '{self.teacher_sha256}'")

    @property
    def key(self) -> str:
        """Hash of the teacher's weights and of all settings; where the weights lie does not matter."""
        settings = self.to_json() | {"version": VERSION}
        del settings["teacher"]
        return fingerprint(settings)[:16]


def slice_maps(vit: ViT, slices: Tensor, image_size: int) -> Tensor:
    """Return the maps (N, heads, H, W) of slices (N, C, H, W), each scaled to 0..1; a flat one is 0."""
    squares = as_square(standardised(slices.float()), image_size)
    maps = nearest(vit.attention_maps(as_rgb(squares)), vit.options.patch)
    maps = F.interpolate(maps, size=slices.shape[2:], mode="bilinear", align_corners=False)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)


class AttentionMaps(nn.Module):
    """The frozen teacher, and whole cases (C, D, H, W) to its maps (heads, D, H, W) in 0..1."""

    def __init__(self, options: AttentionOptions) -> None:
        super().__init__()
        self.options = options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            self.vit = ViT(options.vit)
        self.vit.requires_grad_(False)

    @property
    def extra(self) -> Extra:
        """What is stored with each case."""
        return Extra(channels=self.options.vit.heads, key=self.options.key)

    def pretrained(self) -> tuple[Pretrained, ...]:
        """Return the teacher's file, if there is one."""
        path, sha256 = self.options.teacher, self.options.teacher_sha256
        if path is None or sha256 is None:
            return ()
        return (Pretrained(self.vit, path, sha256, rename=official_name),)

    def forward(self, image: Tensor) -> Tensor:
        """Map a case (C, D, H, W) to the maps (heads, D, H, W) of its slices; some slices at a time."""
        patch, size = self.options.vit.patch, tuple(image.shape[2:])
        if min(size) < patch:
            raise UserError(
                f"images must be at least one patch, {patch} pixels, on each side to have attention maps, but got "
                f"{size}: use a ViT of smaller patches"
            )
        parts = torch.split(image.transpose(0, 1), SLICES)
        maps = [slice_maps(self.vit, part, self.options.image_size) for part in parts]
        return torch.cat(maps).transpose(0, 1).contiguous()
