"""UNeXt (Valanarasu, Patel 2022, arXiv:2203.04967): convolutions above, tokenised MLPs with shifted channels below.

Three stages Conv3-BN-pool-ReLU of 1, 2, 8 times `width` channels, two tokenised stages of 10 and 16 times: a Conv3 of
stride 2 and LayerNorm make tokens T, then T + W2 shift_W(GELU(DWConv(W1 shift_H(LN T)))) and a LayerNorm.
A shift cuts the channels into `shift` parts and moves part i by i - (shift - 1) / 2 pixels along one axis, zeros
entering. Up: ReLU(bilinear x2 (BN(Conv3))) plus the skip, and a tokenised block at 1/16 and 1/8 of the resolution;
a last Conv3 and x2 without norm or skip; a 1x1 head.
1,471,921 parameters with 3 input channels and 1 output map; the head for background and foreground has one map, 17
parameters, more. Differs from the paper's text, as the authors' code: channels are 16, 32, 128, 160, 256 (the text has
32, 64, 128, 160, 256), rows are shifted before columns. The parts differ by one channel at most; in the authors' code
the last part is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import convolution, initialise_he, max_pool, normalisation, upsample
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped
from overread.errors import UserError
from overread.jsonio import JsonRecord

MULTIPLES = (1, 2, 8, 10, 16)
"""Channels of the five encoder stages, in units of `width`."""
ROWS, COLUMNS = 2, 3
"""Axes of a map (B, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class UNeXtOptions(JsonRecord):
    """Options of UNeXt; the defaults are the published 16..256 channels."""

    width: int = 16
    """Channels of the first stage and of the last map."""
    shift: int = 5
    """Parts that the channels are cut into; 1: no shift (the paper's plain tokenised MLP)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if self.shift < 1 or self.shift % 2 == 0:
            raise UserError(f"shift must be odd and positive, but got {self.shift}")


def shift_channels(x: Tensor, parts: int, axis: int) -> Tensor:
    """Move the i-th of `parts` groups of channels of (B, C, H, W) by i - (parts - 1) / 2 pixels along an axis."""
    if parts == 1:
        return x
    reach, size = parts // 2, x.shape[axis]
    padded = F.pad(x, (0, 0, reach, reach) if axis == ROWS else (reach, reach))
    groups = enumerate(padded.tensor_split(parts, 1))
    return cat([group.narrow(axis, 2 * reach - i, size) for i, group in groups], 1)


class TokenNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TokenBlock(nn.Module):
    """T + W2 shift_W(GELU(DWConv(W1 shift_H(LN T)))), then a LayerNorm: tokens are the pixels of a map."""

    def __init__(self, channels: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm = TokenNorm(channels)
        self.first = convolution(2, channels, channels, kernel=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.second = convolution(2, channels, channels, kernel=1)
        self.last_norm = TokenNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        y = self.first(shift_channels(self.norm(x), self.shift, ROWS))
        y = shift_channels(F.gelu(self.depthwise(y)), self.shift, COLUMNS)
        return self.last_norm(x + self.second(y))


class Down(nn.Module):
    """A convolutional stage: Conv3-BN-pool-ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = convolution(2, inputs, outputs)
        self.norm = normalisation("batch", 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / 2, W / 2)."""
        return F.relu(max_pool(self.norm(self.convolution(x))))


class Up(nn.Module):
    """A step of the decoder: Conv3-BN, bilinear x2, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = convolution(2, inputs, outputs)
        self.norm = normalisation("batch", 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, 2 H, 2 W)."""
        return F.relu(upsample(self.norm(self.convolution(x))))


class UNeXt(UShaped):
    """The wiring of UNeXt. Inner layers: `encoder` (coarsest last), `ups`, `blocks` and `last` of the decoder.

    >>> import torch
    >>> UNeXt(UNeXtOptions(width=2), in_channels=1)(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 2, 32, 64])
    """

    title = "UNeXt"
    pooled = False

    def __init__(self, options: UNeXtOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = [multiple * options.width for multiple in MULTIPLES]
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        self.size_multiple = 2 ** len(channels)  # the first stage halves the resolution, too
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            Down(i, o)
            if stage < 3
            else nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), TokenNorm(o), TokenBlock(o, options.shift))
            for stage, (i, o) in enumerate(zip(inputs, channels, strict=True))
        )
        self.ups = nn.ModuleList(Up(i, o) for i, o in zip(channels[1:], channels[:-1], strict=True))
        self.blocks = nn.ModuleList(
            TokenBlock(c, options.shift) if stage >= 2 else nn.Identity() for stage, c in enumerate(channels[:-1])
        )
        self.last = convolution(2, options.width, options.width)
        initialise_he(self)
        for layer in self.modules():
            if isinstance(layer, TokenBlock):  # as the linear layers of a Transformer: blocks start near the identity
                for linear in (layer.first, layer.second):
                    nn.init.trunc_normal_(linear.get_parameter("weight"), std=0.02)

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, *S) from the skips and the deepest map."""
        for skip, up, block in zip(skips[::-1], reversed(self.ups), reversed(self.blocks), strict=True):
            bottom = block(up(bottom) + skip)
        return F.relu(upsample(self.last(bottom)))


@architecture(
    "unext",
    paper="Valanarasu, Patel 2022, arXiv:2203.04967",
    options=UNeXtOptions,
    published=Published(in_channels=3, classes=2, size=(256, 256)),
    network=UNeXt,
)
class UNeXtSegmenter(PlainSegmenter):
    """UNeXt with a softmax head. Published loss: half the cross-entropy plus Dice."""

    default_losses: ClassVar[dict[str, float]] = {"ce": 0.5, "dice": 1.0}

    network_class = UNeXt
