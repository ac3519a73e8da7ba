"""The pre-norm Transformer encoder of ViT (Dosovitskiy 2021, arXiv:2010.11929, Eqs. 1-4), without its patch embedding.

z' = z + MSA(LN z); z = z' + MLP(LN z'); a final LN after the last block. Parameters per block: 12 d^2 + 13 d at an MLP
ratio of 4. Dropout, where there is any, follows both layers of the MLP; the attention has none. Position grids in
absolute raster order are interpolated to other sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.errors import UserError

HEAD_WIDTH = 64
"""Channels of an attention head of ViT."""


def heads_of(width: int, head_width: int = HEAD_WIDTH) -> int:
    """Return the heads for tokens of `width` channels: one per `head_width`, or the next fewer that divide them."""
    return next(heads for heads in range(max(width // head_width, 1), 0, -1) if width % heads == 0)


def initialise_linear(module: nn.Module) -> None:
    """Draw the weights of all linear layers in `module` from a truncated N(0, 0.02^2); their biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, T, d)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"token width must be a multiple of the heads, but got {width} and {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, heads, T, d / heads) each."""
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def weights(self, x: Tensor) -> Tensor:
        """Return the attention (B, heads, T, T); rows sum to 1. For maps: training never builds it."""
        q, k, _ = self.split(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        attended = F.scaled_dot_product_attention(*self.split(x))
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One Transformer block: attention and a GELU MLP, each with a LayerNorm before and a residual around.

    Another `attention` (as that of `windows`, over maps (B, H, W, d)) may take the place of the plain one.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        *,
        attention: Attention | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads) if attention is None else attention
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width),
            nn.Sequential(nn.GELU(), nn.Dropout(dropout)),  # together: the layers keep the names they have without it
            nn.Linear(mlp_ratio * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d), or what the attention takes, to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """`depth` blocks and a final LayerNorm on tokens (B, T, d)."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PositionGrid(nn.Module):
    """A learned position embedding (1, d, side, side[, side]) in raster order; bicubic, trilinear for other sizes."""

    def __init__(self, width: int, side: int, spatial_dims: int = 2) -> None:
        super().__init__()
        grid = torch.empty(1, width, *[side] * spatial_dims)
        self.grid = nn.Parameter(nn.init.trunc_normal_(grid, std=0.02))

    def forward(self, size: tuple[int, ...]) -> Tensor:
        """Return the embedding (1, d, *size)."""
        if tuple(self.grid.shape[2:]) == size:
            return self.grid
        mode = "bicubic" if len(size) == 2 else "trilinear"
        return F.interpolate(self.grid, size=size, mode=mode, align_corners=False)
