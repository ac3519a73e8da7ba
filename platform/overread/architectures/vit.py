"""The Vision Transformer of DINO (Caron et al. 2021, arXiv:2104.14294) and the attention that its CLS token pays.

A Conv with the kernel and stride of a patch makes tokens of patches; a CLS token goes before them, learned positions
are added and a Transformer encoder follows (`transformer`). ViT-S/16 has 21,665,664 parameters. The map of a head is
the row of the CLS token in the last block's softmax attention, over the patches.
Weights start as in DINO's code and have other names there (`official_name`): its files load name by name.
Differs from the code: no stochastic depth; positions are interpolated to the very size of the grid, where the code
adds 0.1 to it against rounding.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.transformer import Block, Encoder, initialise_linear
from overread.errors import UserError
from overread.jsonio import JsonRecord

SIZES = {"tiny": (192, 3), "small": (384, 6)}
"""Channels of a token and heads."""
SIDE = 224
"""Side in pixels of the images whose patches the learned positions are for."""
OFFICIAL = {
    ".attention_norm.": ".norm1.",
    ".attention.out.": ".attn.proj.",
    ".attention.": ".attn.",
    ".mlp_norm.": ".norm2.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.2.": ".mlp.fc2.",
}
"""Parts of our names and what DINO's files call them."""


@dataclass(frozen=True, kw_only=True)
class ViTOptions(JsonRecord):
    """Which Vision Transformer; the default is DINO's ViT-S/16."""

    size: Literal["tiny", "small"] = "small"
    """192 channels and 3 heads, or 384 channels and 6 heads."""
    patch: int = 16
    """Side of a patch in pixels."""
    depth: int = 12
    """Transformer blocks."""

    def __post_init__(self) -> None:
        if self.patch < 1 or SIDE % self.patch:
            raise UserError(f"patch must divide {SIDE}, but got {self.patch}: choose 8, 16 or 32")
        if self.depth < 1:
            raise UserError(f"depth must be at least 1, but got {self.depth}")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return SIZES[self.size][0]

    @property
    def heads(self) -> int:
        """Attention heads: so many maps of an image."""
        return SIZES[self.size][1]


class ViT(nn.Module):
    """Images (B, 3, H, W) to the CLS token (B, width). H and W are multiples of the patch.

    >>> ViT(ViTOptions(size="tiny", patch=32, depth=1))(torch.zeros(2, 3, 64, 32)).shape
    torch.Size([2, 192])
    """

    def __init__(self, options: ViTOptions) -> None:
        super().__init__()
        self.options = options
        self.grid = SIDE // options.patch
        convolution = nn.Conv2d(3, options.width, options.patch, stride=options.patch)
        self.patch_embed = nn.Sequential(OrderedDict(proj=convolution))
        self.cls_token = nn.Parameter(torch.empty(1, 1, options.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid**2, options.width))
        self.encoder = Encoder(options.width, options.depth, options.heads)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        initialise_linear(self.encoder)
        for layer in self.encoder.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to the normalised CLS token of the last block (B, width)."""
        return self.encoder(self.tokens(x))[:, 0]

    def tokens(self, x: Tensor) -> Tensor:
        """Return CLS and patches in raster order, with their positions, (B, 1 + h w, width)."""
        self._check(x)
        patches = self.patch_embed(x)
        tokens = patches.flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(x), -1, -1)
        return torch.cat([cls, tokens], 1) + self.positions(*patches.shape[2:])

    def positions(self, height: int, width: int) -> Tensor:
        """Return the embedding (1, 1 + height * width, d): bicubic where the grid is not the learned one."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        cls, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = torch.unflatten(patches.transpose(1, 2), 2, (self.grid, self.grid))
        resized = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([cls, resized.flatten(2).transpose(1, 2)], 1)

    def last_attention(self, x: Tensor) -> Tensor:
        """Return the last block's attention (B, heads, 1 + h w, 1 + h w) over CLS and patches; rows sum to 1."""
        tokens = self.tokens(x)
        *blocks, last = self.encoder.blocks
        for block in blocks:
            tokens = block(tokens)
        assert isinstance(last, Block)  # noqa: S101  (what an Encoder is made of)
        return last.attention.weights(last.attention_norm(tokens))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Return what CLS pays each patch, by head, (B, heads, h, w); a map sums to less than 1: CLS keeps a share."""
        patch = self.options.patch
        rows = self.last_attention(x)[:, :, 0, 1:]
        return torch.unflatten(rows, 2, (x.shape[2] // patch, x.shape[3] // patch))

    def _check(self, x: Tensor) -> None:
        patch, (height, width) = self.options.patch, x.shape[2:]
        if min(height, width) < patch or height % patch or width % patch:
            raise UserError(
                f"an image for this ViT must have sides of one or more patches of {patch} pixels, but got "
                f"({height}, {width}): resize it or use smaller patches"
            )


def official_name(name: str) -> str:
    """Return what DINO's files call a weight of `ViT`.

    >>> official_name("encoder.blocks.11.attention.out.weight")
    'blocks.11.attn.proj.weight'
    """
    name = name.removeprefix("encoder.")
    for ours, theirs in OFFICIAL.items():
        name = name.replace(ours, theirs)
    return name


def standardised(images: Tensor) -> Tensor:
    """Return slices (B, C, H, W) with zero mean and unit variance per channel; a flat one is 0.

    Official weights expect this of their images, and changes of brightness are measured by it. Prepared images have it
    of whole cases, but those that a window scales to 0..1 do not.
    """
    mean, deviation = images.mean((2, 3), keepdim=True), images.std((2, 3), correction=0, keepdim=True)
    flat = deviation <= 1e-5 * images.abs().amax((2, 3), keepdim=True)  # rounding alone
    return ((images - mean) / deviation.masked_fill(flat, 1)).masked_fill(flat, 0)


def as_rgb(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) with three channels: three stay, else the mean of all is repeated (grey: itself)."""
    return images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def as_square(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) as (B, C, side, side), bilinear, smoothed where they shrink."""
    if tuple(images.shape[2:]) == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
