"""UCTransNet (Wang, Cao, Wang, Zaiane 2022, arXiv:2109.04335): a U-Net whose skips are fused by channel attention.

A U-Net of `width` * (1, 2, 4, 8, 8) channels, where a channel transformer (CTrans) replaces the plain skips:
* CCT. The skip E_i of each of the four levels becomes tokens T_i of its own `width` * 2^i channels, patches of 16, 8,
  4 and 2 pixels, so that all levels have the same h w / 256 tokens. With T the concatenation of all T_i, queries
  Q_i = T_i W_Qi, keys K = T W_K and values V = T W_V, each level attends over *channels*:
  CA_i = softmax(psi(Q_i^T K / sqrt(C))) V^T, psi an instance norm of the scores of each head and C = 15 `width` the
  channels of T; heads have full width and are averaged. Then an MLP; both pre-norm with residuals. The tokens of a
  level go back to its resolution (1x1 Conv-BN-ReLU, nearest) and are added to E_i.
* CCA. The decoder map D_i, upsampled by 2 (nearest), gates the fused skip O_i before the concatenation:
  ReLU(O_i sigmoid((L_1 GAP(O_i) + L_2 GAP(D_i)) / 2)).
As in the released code, residuals around attention and MLP add the tokens themselves, the gate halves its sum and has
biases, and the first level has one convolution, the others two.

Parameters: 66,430,722 for 3 channels, 2 classes and 224 x 224 images. The released code has 66,430,657: its head has
one sigmoid map (`width` + 1 = 65 parameters) where ours has one map per class; all else is equal.
Differs from the code: positions are grids that are interpolated to other sizes; the 1x1 Conv-BN-ReLU runs before the
nearest upsampling, with which it commutes, at 1/256 to 1/4 of the cost; convolutions start as in He 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import (
    ConvUnit,
    DoubleConv,
    convolution,
    initialise_he,
    nearest,
    normalisation,
)
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, PlainSegmenter
from overread.architectures.transformer import PositionGrid
from overread.architectures.u_shaped import UShaped, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord

PATCHES = (16, 8, 4, 2)
"""Side of a token's patch in the map of each level: 16 pixels of the image at all of them."""


@dataclass(frozen=True, kw_only=True)
class UCTransNetOptions(JsonRecord):
    """Options of UCTransNet; the defaults are the published setting."""

    width: int = 64
    """Channels at full resolution; the levels have 1, 2, 4, 8 and 8 times as many."""
    transformer_depth: int = 4
    """Blocks of the channel transformer."""
    heads: int = 4
    """Each has the full width of its level."""
    mlp_ratio: int = 4
    dropout: float = 0.1
    """Probability for the embedded tokens, the attention and what it returns."""
    position_grid: int = 14
    """Side of the learned grids: h / 16 for the published 224 x 224 images; interpolated for others."""

    def __post_init__(self) -> None:
        for name in ("width", "transformer_depth", "heads", "mlp_ratio", "position_grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class ChannelAttention(nn.Module):
    """Cross-attention of the channels of every level to the channels of all levels; heads are averaged."""

    def __init__(self, channels: list[int], heads: int, dropout: float) -> None:
        super().__init__()
        total = sum(channels)
        self.heads, self.scale = heads, 1 / math.sqrt(total)
        self.queries = nn.ModuleList(nn.Linear(c, heads * c, bias=False) for c in channels)
        self.key = nn.Linear(total, heads * total, bias=False)
        self.value = nn.Linear(total, heads * total, bias=False)
        self.out = nn.ModuleList(nn.Linear(c, c, bias=False) for c in channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, levels: list[Tensor], together: Tensor) -> list[Tensor]:
        """Map the tokens of each level (B, T, c) and of all together (B, T, C) to what each level takes (B, T, c)."""
        key, value = self._split(self.key(together)), self._split(self.value(together))
        taken: list[Tensor] = []
        for tokens, query, out in zip(levels, self.queries, self.out, strict=True):
            scores = self._split(query(tokens)).transpose(2, 3) @ key * self.scale  # (B, heads, c, C)
            attention = self.dropout(F.instance_norm(scores).softmax(3))
            mixed = (attention @ value.transpose(2, 3)).mean(1)  # (B, c, T)
            taken.append(self.dropout(out(mixed.transpose(1, 2))))
        return taken

    def _split(self, x: Tensor) -> Tensor:
        """Return (B, T, heads * c) as (B, heads, T, c)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class ChannelBlock(nn.Module):
    """One block of the CCT: channel attention across the levels, then a GELU MLP in each, pre-norm with residuals."""

    def __init__(self, channels: list[int], options: UCTransNetOptions) -> None:
        super().__init__()
        self.attention_norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.together_norm = nn.LayerNorm(sum(channels))
        self.attention = ChannelAttention(channels, options.heads, options.dropout)
        self.mlp_norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        ratio = options.mlp_ratio
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(c, ratio * c), nn.GELU(), nn.Linear(ratio * c, c)) for c in channels
        )

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Map the tokens of each level (B, T, c) to the same shapes."""
        normed = [norm(x) for norm, x in zip(self.attention_norms, levels, strict=True)]
        taken = self.attention(normed, self.together_norm(cat(levels, 2)))
        levels = [x + change for x, change in zip(levels, taken, strict=True)]
        return [x + mlp(norm(x)) for x, norm, mlp in zip(levels, self.mlp_norms, self.mlps, strict=True)]


class ChannelTransformer(nn.Module):
    """The CCT: tokens of all skips, blocks that let their channels attend to each other, and back to the skips."""

    def __init__(self, channels: list[int], options: UCTransNetOptions) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Conv2d(c, c, patch, stride=patch) for c, patch in zip(channels, PATCHES, strict=True)
        )
        positions = [PositionGrid(c, options.position_grid) for c in channels]
        for position in positions:
            nn.init.zeros_(position.grid)
        self.positions = nn.ModuleList(positions)
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(ChannelBlock(channels, options) for _ in range(options.transformer_depth))
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)
        self.reconstructions = nn.ModuleList(
            nn.Sequential(convolution(2, c, c, kernel=1), normalisation("batch", 2, c), nn.ReLU()) for c in channels
        )

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """Map the skips, finest first, to the fused skips of the same shapes."""
        size = (skips[0].shape[2] // PATCHES[0], skips[0].shape[3] // PATCHES[0])
        levels: list[Tensor] = []
        for skip, embedding, position in zip(skips, self.embeddings, self.positions, strict=True):
            levels.append(self.dropout((embedding(skip) + position(size)).flatten(2).transpose(1, 2)))
        for block in self.blocks:
            levels = block(levels)
        fused: list[Tensor] = []
        for i, (skip, tokens) in enumerate(zip(skips, levels, strict=True)):
            grid = self.norms[i](tokens).transpose(1, 2).unflatten(2, size)
            fused.append(skip + nearest(self.reconstructions[i](grid), PATCHES[i]))
        return fused


class ChannelGate(nn.Module):
    """The CCA: the decoder's map decides which channels of the fused skip pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip = nn.Linear(channels, channels)
        self.decoder = nn.Linear(channels, channels)

    def forward(self, skip: Tensor, decoder: Tensor) -> Tensor:
        """Map two (B, C, H, W) to the gated skip (B, C, H, W)."""
        gate = (self.skip(skip.mean((2, 3))) + self.decoder(decoder.mean((2, 3)))) / 2
        return F.relu(skip * gate.sigmoid()[:, :, None, None])


class UCTransNet(UShaped):
    """The wiring of UCTransNet. Inner layers: `encoder` and `decoder` (finest first), `transformer`, `gates`.

    >>> import torch
    >>> UCTransNet(UCTransNetOptions(width=2), in_channels=1)(torch.zeros(2, 1, 16, 32)).shape
    torch.Size([2, 2, 16, 32])
    """

    title = "UCTransNet"

    def __init__(self, options: UCTransNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        skips = doubled(options.width, 4)
        channels = [*skips, skips[-1]]
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        self.encoder = nn.ModuleList(
            [ConvUnit(2, in_channels, skips[0]), *(DoubleConv(2, i, o) for i, o in pairwise(channels))]
        )
        self.transformer = ChannelTransformer(skips, options)
        self.gates = nn.ModuleList(ChannelGate(c) for c in skips)
        outputs = [skips[0], *skips[:-1]]  # what the next finer level has, for its gate
        self.decoder = nn.ModuleList(DoubleConv(2, 2 * c, o) for c, o in zip(skips, outputs, strict=True))
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the fused skips, finest first, and the deepest map (B, `bottom_channels`, H / 16, W / 16)."""
        skips, bottom = super().encode(x)
        return self.transformer(skips), bottom

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the fused skip, gated, and the map from below."""
        up = nearest(below, 2)
        return cat([self.gates[level](skip, up), up], 1)


@architecture(
    "uctransnet",
    paper="Wang et al. 2022, arXiv:2109.04335",
    options=UCTransNetOptions,
    published=Published(in_channels=3, classes=2, size=(224, 224)),
    network=UCTransNet,
)
class UCTransNetSegmenter(PlainSegmenter):
    """UCTransNet with a softmax head. Published loss: cross-entropy and Dice in equal parts."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    network_class = UCTransNet
