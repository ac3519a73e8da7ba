"""R2U-Net (Alom, Hasan, Yakopcic, Taha, Asari 2018, arXiv:1802.06955): a U-Net of recurrent residual blocks.

A block projects its input to its channels by a Conv1 and adds two recurrent convolutions to the projection x. Each has
one Conv3-BN-ReLU f for all its steps: y = f(x), then `steps` times y = f(x + y). Max-pooling down; up by upsampling
(nearest), Conv3-BN-ReLU to half the channels, concatenation with the skip, a block; a 1x1 head. With `attention` the
skips pass the gates of Attention U-Net: R2AU-Net, which comparisons print beside it.

Parameters for 3 channels and one output, as usually given: 39,091,393, with attention 39,442,925; the head for the two
classes here has 65 more.
Differs from the paper: 64..1024 channels, as those counts have; one norm for all steps of a convolution, as there; the
same layers in 3-D.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, cat, nn

from overread.architectures.attention_unet import Gate
from overread.architectures.blocks import ConvUnit, convolution, initialise_he, nearest
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class R2UNetOptions(JsonRecord):
    """Options of R2U-Net; the defaults are the published 64..1024 channels and two steps."""

    width: int = 64
    """Channels at full resolution, doubled per level."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""
    steps: int = 2
    """t: how often a convolution sees its own output again."""
    attention: bool = False
    """Attention gates at the skips (R2AU-Net)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if self.attention and self.width % 2:
            raise UserError(f"width must be even with attention gates, but got {self.width}")
        check_depth(self.depth)
        if self.steps < 0:
            raise UserError(f"steps must be at least 0, but got {self.steps}")


class RecurrentConv(nn.Module):
    """One Conv3-BN-ReLU that sees its input again and again, with its last output added."""

    def __init__(self, spatial_dims: int, channels: int, steps: int) -> None:
        super().__init__()
        self.unit = ConvUnit(spatial_dims, channels, channels)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *S) to the same shape."""
        y = self.unit(x)
        for _ in range(self.steps):
            y = self.unit(x + y)
        return y


class RecurrentResidual(nn.Module):
    """A Conv1 to the block's channels, and two recurrent convolutions with a residual around them."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, steps: int) -> None:
        super().__init__()
        self.project = convolution(spatial_dims, inputs, outputs, kernel=1)
        self.recurrent = nn.Sequential(*(RecurrentConv(spatial_dims, outputs, steps) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *S) to (B, outputs, *S)."""
        x = self.project(x)
        return x + self.recurrent(x)


class R2UNet(UShaped):
    """The wiring of R2U-Net. Inner layers: `encoder`; `ups`, `gates` and `decoder` (finest first).

    >>> import torch
    >>> R2UNet(R2UNetOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "R2U-Net"

    def __init__(self, options: R2UNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            RecurrentResidual(spatial_dims, i, o, options.steps) for i, o in zip(inputs, channels, strict=True)
        )
        self.ups = nn.ModuleList(ConvUnit(spatial_dims, 2 * c, c) for c in channels[:-1])
        self.gates = nn.ModuleList(Gate(spatial_dims, c) for c in channels[:-1] if options.attention)
        self.decoder = nn.ModuleList(RecurrentResidual(spatial_dims, 2 * c, c, options.steps) for c in channels[:-1])
        initialise_he(self)

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the skip, gated where there are gates, and the map from below."""
        up = self.ups[level](nearest(below, 2))
        return cat([self.gates[level](skip, up) if self.gates else skip, up], 1)


@architecture(
    "r2u_net",
    paper="Alom et al. 2018, arXiv:1802.06955",
    options=R2UNetOptions,
    published=Published(in_channels=3, classes=2, size=(64, 64)),
    spatial_dims=(2, 3),
    network=R2UNet,
    also={"r2au_net": Published(in_channels=3, classes=2, size=(64, 64), options={"attention": True})},
)
class R2UNetSegmenter(PlainSegmenter):
    """R2U-Net with a softmax head. Published loss: cross-entropy."""

    network_class = R2UNet
