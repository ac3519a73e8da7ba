"""ResUnet (Zhang, Liu, Wang 2018, arXiv:1711.10684): a U-Net of pre-activation residual units, 2-D and 3-D.

Levels of `width`, 2 `width`, 4 `width`, 8 `width` channels, one unit y = F(x) + h(x) each (Eq. 1), the last being the
bridge: F is twice BN-ReLU-Conv3, h the shortcut. The first unit starts with its convolution; the encoder goes down by
a stride of 2 in F and h, without pooling. Up: upsampling by 2, concatenation with the skip, one unit; a 1x1 head.
Differs from the paper, as the common public PyTorch code: shortcuts are 3x3 convolutions with BN (the first without),
upsampling is a transposed convolution that keeps the channels. That is 13,043,009 parameters with 3 input channels and
1 output map; the head for background and foreground has one map, 65 parameters, more.
`shortcut_kernel` 1 and `upsample` "linear" are the paper's own: its 7.8M parameters, and 0.4M for 1x1 projections where
its figure has identities although the channels change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, cat, nn

from overread.architectures.blocks import (
    Norm,
    convolution,
    initialise_he,
    normalisation,
    transposed_up,
    upsample,
)
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class ResUnetOptions(JsonRecord):
    """Options of ResUnet; the defaults are the published 64..512 channels."""

    width: int = 64
    """Channels at full resolution; doubled per level."""
    depth: int = 4
    """Resolution levels with the bridge; spatial sizes must be multiples of 2^(depth - 1)."""
    norm: Norm = "batch"
    shortcut_kernel: Literal[1, 3] = 3
    """Side of the shortcut convolutions."""
    upsample: Literal["transposed", "linear"] = "transposed"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        check_depth(self.depth)


class ResidualUnit(nn.Module):
    """F(x) + h(x): (B, inputs, *S) to (B, outputs, *S / stride). `first`: nothing before the first convolution."""

    def __init__(
        self,
        options: ResUnetOptions,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        first: bool = False,
    ) -> None:
        super().__init__()
        before = [] if first else [normalisation(options.norm, spatial_dims, inputs), nn.ReLU(inplace=True)]
        self.main = nn.Sequential(
            *before,
            convolution(spatial_dims, inputs, outputs, stride=stride),
            normalisation(options.norm, spatial_dims, outputs),
            nn.ReLU(inplace=True),
            convolution(spatial_dims, outputs, outputs),
        )
        shortcut = convolution(spatial_dims, inputs, outputs, options.shortcut_kernel, stride=stride)
        self.shortcut = nn.Sequential(shortcut)
        if not first:
            self.shortcut.append(normalisation(options.norm, spatial_dims, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *S) to (B, outputs, *S / stride)."""
        return self.main(x) + self.shortcut(x)


class ResUnet(UShaped):
    """The wiring of ResUnet. Inner layers: `encoder` (the last is the bridge), `ups` and `decoder`, finest first.

    >>> import torch
    >>> ResUnet(ResUnetOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "ResUnet"
    pooled = False

    def __init__(self, options: ResUnetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        self.encoder = nn.ModuleList([ResidualUnit(options, spatial_dims, in_channels, channels[0], first=True)])
        self.encoder.extend(ResidualUnit(options, spatial_dims, c, 2 * c, stride=2) for c in channels[:-1])
        self.ups = nn.ModuleList()
        if options.upsample == "transposed":
            self.ups.extend(transposed_up(spatial_dims, 2 * c, 2 * c) for c in channels[:-1])
        self.decoder = nn.ModuleList(ResidualUnit(options, spatial_dims, 3 * c, c) for c in channels[:-1])
        initialise_he(self)

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the map from below, upsampled, and the skip."""
        return cat([self.ups[level](below) if self.ups else upsample(below), skip], 1)


@architecture(
    "res_unet",
    paper="Zhang, Liu, Wang 2018, Road extraction by deep residual U-Net, arXiv:1711.10684",
    options=ResUnetOptions,
    published=Published(in_channels=3, classes=2, size=(224, 224)),
    spatial_dims=(2, 3),
    network=ResUnet,
)
class ResUnetSegmenter(PlainSegmenter):
    """ResUnet with a softmax head. Loss: cross-entropy, as U-Netmer compares it (the paper's is the squared error)."""

    network_class = ResUnet
