"""MT-UNet (Wang et al. 2022, ICASSP, arXiv:2111.04734): a U-Net of mixed Transformer modules below stride 4.

Three residual double convolutions with `width` * (1, 2, 4) channels, a max-pooling after each; a learned position is
added. Then two mixed Transformer modules (MTM) per level with `width` * (4, 8, 16) channels (strides 8, 16, 32), Conv3
of stride 2 between them. The decoder mirrors it: a transposed convolution, concatenation with the skip, a Conv3-BN-ReLU
and two MTM, and at the three finer levels a residual double convolution instead. A 1x1 head.
An MTM is z' = z + LGG-SA(LN z), z'' = z' + EA(LN z').
- LGG-SA, local-global Gaussian-weighted self-attention: multi-head attention within windows of 4 x 4 tokens; a dynamic
  convolution (its kernel follows from the window's mean) makes one token of each; these attend to their row and to
  their column by softmax(q k / sqrt(d) - D^2 / (2 sigma^2)) with their distance D and a learned sigma per head; what
  they gather is given back to their windows, concatenated with the local result and projected.
- EA, external attention (Guo et al. 2021, arXiv:2105.02358), multi-head: tokens attend to 64 learned memories, shared
  by all images; scores are normalised over the tokens (softmax) and then over the memories.
80,337,332 parameters for 3 channels and 4 classes; the released code has 79,075,064, 1.6 % fewer.
The paper leaves open, and is inferred here: the channels of the external attention (4 d, 32 heads), that row and column
are normalised each by itself and summed, and how maps are joined in the decoder (the Conv3 is where counts may differ).
The paper's Gaussian has a shift b beside sigma; the softmax does not see it. Windows pad sides that they do not divide;
what is padded is not seen, so all multiples of 32 will do. The position is interpolated to other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, convolution, initialise_he, max_pool, normalisation, transposed_up
from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, PlainSegmenter
from overread.architectures.transformer import Attention, PositionGrid, initialise_linear
from overread.architectures.windows import Size, WindowAttention, from_windows, pad, padded, to_windows
from overread.errors import UserError
from overread.jsonio import JsonRecord

WINDOW = 4
"""Side of a window in tokens."""
HEADS = 8
"""Of the self-attentions, where they divide the channels."""
EXPANSION = 4
"""Channels and heads of the external attention, in those of the self-attention."""
SHARPNESS = 0.1
"""1 / (sigma sqrt 2) before training."""
STEM = 3
"""Levels of residual double convolutions."""


@dataclass(frozen=True, kw_only=True)
class MTUNetOptions(JsonRecord):
    """Options of MT-UNet; the defaults are the published ones."""

    width: int = 64
    """Channels at full resolution, doubled per level but for the first Transformer's, which has the last stem's."""
    depths: tuple[int, int, int] = (2, 2, 2)
    """MTMs at strides 8, 16 and 32."""
    memory: int = 64
    """Memories of the external attention."""
    position_grid: int = 28
    """Side of the learned grid: h / 8 for the published 224 x 224 images; interpolated for others."""

    def __post_init__(self) -> None:
        if min(self.depths) < 1:
            raise UserError(f"depths must be at least 1 in every stage, but got {list(self.depths)}")
        for name in ("width", "memory", "position_grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")


class ResidualDoubleConv(nn.Module):
    """ReLU(h(x) + f(x)): f is Conv3-BN-ReLU-Conv3-BN, h Conv1-BN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            ConvUnit(2, inputs, outputs), convolution(2, outputs, outputs), normalisation("batch", 2, outputs)
        )
        self.shortcut = nn.Sequential(convolution(2, inputs, outputs, kernel=1), normalisation("batch", 2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return F.relu(self.shortcut(x) + self.main(x), inplace=True)


class DynamicConvolution(nn.Module):
    """One token per window: a sum of the window's tokens, weighted by a softmax of what their mean says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(width, WINDOW**2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to (B, ceil(H / 4), ceil(W / 4), d)."""
        size: Size = (x.shape[1], x.shape[2])
        window: Size = (WINDOW, WINDOW)
        whole = padded(size, window)
        cells = to_windows(pad(x, whole), window)
        there = to_windows(pad(torch.ones(1, *size, 1, device=x.device), whole), window)[..., 0]
        mean = cells.sum(2) / there.sum(2)[..., None]  # padding is zero
        kernel = self.kernel(mean).masked_fill(there == 0, -torch.inf).softmax(-1)
        return torch.unflatten((kernel[..., None] * cells).sum(2), 1, (whole[0] // WINDOW, whole[1] // WINDOW))


class GaussianAxialAttention(Attention):
    """Attention of the tokens of a map (B, H, W, d) to their row and to their column; near ones count for more."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.sharpness = nn.Parameter(torch.full((heads,), SHARPNESS))

    def decay(self, side: int) -> Tensor:
        """Return -D^2 / (2 sigma^2) for the tokens of an axis, (heads, 1, side, side)."""
        place = torch.arange(side, device=self.sharpness.device)
        distance = (place[:, None] - place).square()
        return -(self.sharpness.square()[:, None, None, None] * distance)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        size: Size = (x.shape[1], x.shape[2])
        q, k, v = (torch.unflatten(part, 2, size) for part in self.split(x.flatten(1, 2)))
        rows = _attend(q, k, v, self.decay(size[1]))
        columns = _attend(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3), self.decay(size[0]))
        return self.out((rows + columns.transpose(2, 3)).permute(0, 2, 3, 1, 4).flatten(3))


def _attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=scores.to(q.dtype))


class LocalGlobalAttention(nn.Module):
    """LGG-SA on (B, H, W, d). Inner layers: `local`, `gather`, `far`, `join`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = gcd(HEADS, width)
        self.local = WindowAttention(width, heads, WINDOW, relative=False)
        self.gather = DynamicConvolution(width)
        self.far = GaussianAxialAttention(width, heads)
        self.join = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        size: Size = (x.shape[1], x.shape[2])
        window: Size = (WINDOW, WINDOW)
        near = self.local(x)
        far = self.far(self.gather(near)).flatten(1, 2)[:, :, None].expand(-1, -1, WINDOW**2, -1)
        spread = from_windows(far, window, padded(size, window))[:, : size[0], : size[1]]
        return self.join(cat([near, spread], -1))


class ExternalAttention(nn.Module):
    """EA on (B, H, W, d). Inner layers: `query`, `keys`, `values`, `out`."""

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.heads = EXPANSION * gcd(HEADS, width)
        inner = EXPANSION * width // self.heads
        self.query = nn.Linear(width, EXPANSION * width)
        self.keys = nn.Linear(inner, memory)
        self.values = nn.Linear(memory, inner)
        self.out = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        query = torch.unflatten(self.query(x).flatten(1, 2), 2, (self.heads, -1)).transpose(1, 2)
        attention = self.keys(query).softmax(2)
        attention = attention / attention.sum(-1, keepdim=True)
        gathered = self.values(attention).transpose(1, 2).flatten(2)
        return torch.unflatten(self.out(gathered), 1, x.shape[1:3])


class MixedTransformer(nn.Module):
    """A mixed Transformer module (MTM) on (B, H, W, d)."""

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = LocalGlobalAttention(width)
        self.memory_norm = nn.LayerNorm(width)
        self.memory = ExternalAttention(width, memory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, d) to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.memory(self.memory_norm(x))


class Stage(nn.Sequential):
    """MTMs one after the other, on a map (B, d, H, W)."""

    def __init__(self, width: int, depth: int, memory: int) -> None:
        super().__init__(*(MixedTransformer(width, memory) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d, H, W) to the same shape."""
        x = x.permute(0, 2, 3, 1)
        for module in self:
            x = module(x)
        return x.permute(0, 3, 1, 2)


class MTUNet(EncoderDecoder):
    """The wiring of MT-UNet. Inner layers: `stem`, `position`, `encoder`, `downs`, finest first.

    And of the decoder `ups`, `joins`, `decoder` at the levels of MTMs, `leaf_ups`, `leaf` at the others, finest first.

    >>> MTUNet(MTUNetOptions(width=2, depths=(1, 1, 1)), in_channels=1)(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 2, 32, 64])
    """

    title = "MT-UNet"

    def __init__(self, options: MTUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        fine = [options.width << level for level in range(STEM)]
        coarse = [fine[-1] << level for level in range(len(options.depths))]
        self.size_multiple = 1 << (STEM + len(coarse) - 1)
        self.feature_channels, self.bottom_channels = fine[0], coarse[-1]
        self.stem = nn.ModuleList(ResidualDoubleConv(i, o) for i, o in zip([in_channels, *fine], fine, strict=False))
        self.position = PositionGrid(coarse[0], options.position_grid)
        stages = list(zip(coarse, options.depths, strict=True))
        self.encoder = nn.ModuleList(Stage(width, depth, options.memory) for width, depth in stages)
        self.downs = nn.ModuleList(convolution(2, width, 2 * width, stride=2) for width in coarse[:-1])
        self.ups = nn.ModuleList(transposed_up(2, 2 * width, width) for width in coarse[:-1])
        self.joins = nn.ModuleList(ConvUnit(2, 2 * width, width) for width in coarse[:-1])
        self.decoder = nn.ModuleList(Stage(width, depth, options.memory) for width, depth in stages[:-1])
        below = [*fine[1:], coarse[0]]
        self.leaf_ups = nn.ModuleList(transposed_up(2, i, o) for i, o in zip(below, fine, strict=True))
        self.leaf = nn.ModuleList(ResidualDoubleConv(2 * width, width) for width in fine)
        initialise_he(self)
        initialise_linear(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps of strides 1, 2, 4, 8 and 16 and the deepest (B, `bottom_channels`, H / 32, W / 32)."""
        skips: list[Tensor] = []
        for block in self.stem:
            skips.append(block(x))
            x = max_pool(skips[-1])
        x = x + self.position((x.shape[2], x.shape[3]))
        for stage, down in zip(self.encoder, self.downs, strict=False):
            skips.append(stage(x))
            x = down(skips[-1])
        return skips, self.encoder[-1](x)

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H, W) from the skips and the deepest map."""
        for level in reversed(range(len(self.decoder))):
            joined = self.joins[level](cat([skips[STEM + level], self.ups[level](bottom)], 1))
            bottom = self.decoder[level](joined)
        for level in reversed(range(STEM)):
            bottom = self.leaf[level](cat([skips[level], self.leaf_ups[level](bottom)], 1))
        return bottom


@architecture(
    "mt_unet",
    paper="Wang et al. 2022, arXiv:2111.04734",
    options=MTUNetOptions,
    published=Published(in_channels=3, classes=4, size=(224, 224)),
    network=MTUNet,
)
class MTUNetSegmenter(PlainSegmenter):
    """MT-UNet with a softmax head. Published loss: cross-entropy and Dice in equal parts."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    network_class = MTUNet
