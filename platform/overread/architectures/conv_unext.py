"""ConvUNeXt (Han, Jian, Wang 2022, Knowledge-Based Systems 253): a light U-Net of ConvNeXt blocks, 2-D and 3-D.

Block: GELU(x + BN(W2 GELU(W1 BN(D x)))) with D a depthwise 7x7 convolution and W1, W2 pointwise, to 4 times the
channels and back. Levels of 1, 2, 4, 8, 8 times `width` channels with 1, 1, 1, 3, 1 blocks, after a 7x7 stem; down by
BN and a 2x2 convolution of stride 2. Up: BN, bilinear x2, and the skip filtered by the decoder's map x through
(g1, g2, g3) = W x: skip' = W2(sigmoid(W1(g1 + skip)) skip + sigmoid(g2) tanh(g3)); both concatenated, a pointwise
convolution to the next level's channels, one block; a 1x1 head. Wide convolutions pad by reflection.
3,505,730 parameters with 3 input channels and 2 output maps, exactly those of the authors' code.
Differs from that code: maps smaller than the reflection repeat their edge, where it fails; the same layers in 3-D.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import CONVOLUTION, convolution, normalisation, upsample
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class ConvUNeXtOptions(JsonRecord):
    """Options of ConvUNeXt; the defaults are the published 32..256 channels."""

    width: int = 32
    """Channels at full resolution; doubled per level, but the deepest level keeps those of the level above."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""
    main_blocks: int = 3
    """Blocks of the last level but one, where ConvNeXt has most of its own; the other levels have one."""
    kernel: int = 7
    """Side of the stem and of the depthwise convolutions."""

    def __post_init__(self) -> None:
        for name in ("width", "main_blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        check_depth(self.depth, least=3)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"kernel must be odd and positive, but got {self.kernel}")


def pad_by_reflection(x: Tensor, reach: int) -> Tensor:
    """Return (B, C, *S) as (B, C, *(S + 2 reach)), mirrored at the borders; what a small map cannot mirror repeats."""
    mirrored = [min(reach, size - 1) for size in reversed(x.shape[2:])]
    x = F.pad(x, [m for m in mirrored for _ in range(2)], mode="reflect")
    if min(mirrored) == reach:
        return x
    return F.pad(x, [reach - m for m in mirrored for _ in range(2)], mode="replicate")


class WideConv(nn.Module):
    """A convolution with bias that keeps the spatial size, padded by reflection."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, kernel: int, *, groups: int = 1) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.convolution = CONVOLUTION[spatial_dims](inputs, outputs, kernel, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *S) to (B, outputs, *S)."""
        return self.convolution(pad_by_reflection(x, self.reach))


class Block(nn.Module):
    """GELU(x + BN(W2 GELU(W1 BN(D x)))): the ConvUNeXt block."""

    def __init__(self, spatial_dims: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            WideConv(spatial_dims, channels, channels, kernel, groups=channels),
            normalisation("batch", spatial_dims, channels),
            convolution(spatial_dims, channels, 4 * channels, kernel=1),
            nn.GELU(),
            convolution(spatial_dims, 4 * channels, channels, kernel=1),
            normalisation("batch", spatial_dims, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, *S) to the same shape."""
        return F.gelu(x + self.branch(x))


class SkipGate(nn.Module):
    """W2(sigmoid(W1(g1 + skip)) skip + sigmoid(g2) tanh(g3)) with (g1, g2, g3) = W x: the decoder filters a skip."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.gates = convolution(spatial_dims, channels, 3 * channels, kernel=1)
        self.inner = convolution(spatial_dims, channels, channels, kernel=1)
        self.outer = convolution(spatial_dims, channels, channels, kernel=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map the decoder's x and the skip, (B, channels, *S) each, to the filtered skip."""
        g1, g2, g3 = self.gates(x).chunk(3, 1)
        kept = torch.sigmoid(self.inner(g1 + skip)) * skip
        return self.outer(kept + torch.sigmoid(g2) * torch.tanh(g3))


class Up(nn.Module):
    """One step of the decoder: normalise, upsample, filter the skip, merge, one block."""

    def __init__(self, spatial_dims: int, channels: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.norm = normalisation("batch", spatial_dims, channels)
        self.gate = SkipGate(spatial_dims, channels)
        self.merge = convolution(spatial_dims, 2 * channels, outputs, kernel=1)
        self.block = Block(spatial_dims, outputs, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map x (B, channels, *S / 2) and the skip (B, channels, *S) to (B, outputs, *S)."""
        x = upsample(self.norm(x), align_corners=True)
        return self.block(self.merge(cat([self.gate(x, skip), x], 1)))


class ConvUNeXt(UShaped):
    """The wiring of ConvUNeXt. Inner layers: `encoder` and `decoder`, finest first.

    >>> import torch
    >>> ConvUNeXt(ConvUNeXtOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "ConvUNeXt"
    pooled = False

    def __init__(self, options: ConvUNeXtOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth - 1)
        channels.append(channels[-1])
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        blocks = [1] * options.depth
        blocks[-2] = options.main_blocks
        stem = [
            WideConv(spatial_dims, in_channels, channels[0], options.kernel),
            normalisation("batch", spatial_dims, channels[0]),
            nn.GELU(),
        ]
        downs = [
            [normalisation("batch", spatial_dims, i), convolution(spatial_dims, i, o, 2, stride=2)]
            for i, o in pairwise(channels)
        ]
        self.encoder = nn.ModuleList(
            nn.Sequential(*entry, *(Block(spatial_dims, c, options.kernel) for _ in range(count)))
            for entry, c, count in zip([stem, *downs], channels, blocks, strict=True)
        )
        outputs = [channels[0], *channels[:-2]]
        self.decoder = nn.ModuleList(
            Up(spatial_dims, c, o, options.kernel) for c, o in zip(channels[:-1], outputs, strict=True)
        )

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, *S) from the skips and the deepest map."""
        for skip, up in zip(skips[::-1], reversed(self.decoder), strict=True):
            bottom = up(bottom, skip)
        return bottom


@architecture(
    "conv_unext",
    paper="Han, Jian, Wang 2022, ConvUNeXt, doi:10.1016/j.knosys.2022.109512",
    options=ConvUNeXtOptions,
    published=Published(in_channels=3, classes=2, size=(480, 480)),
    spatial_dims=(2, 3),
    network=ConvUNeXt,
)
class ConvUNeXtSegmenter(PlainSegmenter):
    """ConvUNeXt with a softmax head. Loss: cross-entropy, as U-Netmer compares it."""

    network_class = ConvUNeXt
