"""Channel-UNet (Chen et al. 2019, doi:10.3389/fgene.2019.01110): a U-Net whose blocks relate all pixels to each other.

Every level, down and up, is two branches beside each other with half of its channels each. One is two Conv3-BN-ReLU;
the other is two more, followed by a spatial channel-wise convolution: 32^2 kernels of 1 x 1 x 32^2 over the pixels of a
32 x 32 grid, the same for all channels, so that each pixel of a map is a learned sum of all its pixels. Max-pooling
down, transposed convolutions up, concatenation with the skip, a 1x1 head.

Parameters for 3 channels and 2 classes: 32,640,898, of which 9,446,400 are the pixel kernels of the nine blocks. No
count is published.
Differs from the paper: its text leaves open what happens at other sizes than 32 x 32 and what follows the kernels; here
maps are averaged (or repeated) to the grid, a BN and a ReLU follow, and the result is upsampled (bilinear) to the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import DoubleConv, initialise_he, normalisation, transposed_up
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class ChannelUNetOptions(JsonRecord):
    """Options of Channel-UNet; the defaults are U-Net's 64..1024 channels and the published grid."""

    width: int = 64
    """Channels at full resolution, doubled per level; even, for a branch has half of them."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""
    grid: int = 32
    """Side of the grid whose pixels are related; a block has grid^4 weights for that."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UserError(f"width must be even and at least 2, but got {self.width}")
        check_depth(self.depth)
        if self.grid < 2:
            raise UserError(f"grid must be at least 2, but got {self.grid}")


class SpatialChannelwise(nn.Module):
    """Spatial channel-wise convolution: every pixel of a grid becomes a sum of all, in each channel alike; BN, ReLU."""

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.kernels = nn.Linear(grid**2, grid**2)
        self.norm = normalisation("batch", 2, channels)
        nn.init.kaiming_normal_(self.kernels.weight, nonlinearity="relu")
        nn.init.zeros_(self.kernels.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        size = (x.shape[2], x.shape[3])
        cells = F.adaptive_avg_pool2d(x, self.grid).flatten(2)
        related = self.kernels(cells).unflatten(2, (self.grid, self.grid))
        return F.interpolate(F.relu(self.norm(related)), size=size, mode="bilinear")


class TwoBranches(nn.Module):
    """A plain branch and one with a spatial channel-wise convolution, beside each other."""

    def __init__(self, inputs: int, outputs: int, grid: int) -> None:
        super().__init__()
        self.plain = DoubleConv(2, inputs, outputs // 2)
        self.related = nn.Sequential(DoubleConv(2, inputs, outputs // 2), SpatialChannelwise(outputs // 2, grid))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return cat([self.plain(x), self.related(x)], 1)


class ChannelUNet(UShaped):
    """The wiring of Channel-UNet. Inner layers: `encoder`; `ups` and `decoder` (finest first).

    >>> import torch
    >>> ChannelUNet(ChannelUNetOptions(width=4, depth=3, grid=8), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "Channel-UNet"

    def __init__(self, options: ChannelUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(TwoBranches(i, o, options.grid) for i, o in zip(inputs, channels, strict=True))
        self.ups = nn.ModuleList(transposed_up(2, 2 * c, c) for c in channels[:-1])
        self.decoder = nn.ModuleList(TwoBranches(2 * c, c, options.grid) for c in channels[:-1])
        initialise_he(self)


@architecture(
    "channel_unet",
    paper="Chen et al. 2019, doi:10.3389/fgene.2019.01110",
    options=ChannelUNetOptions,
    published=Published(in_channels=3, classes=2, size=(64, 64)),
    network=ChannelUNet,
)
class ChannelUNetSegmenter(PlainSegmenter):
    """Channel-UNet with a softmax head. Published loss: cross-entropy."""

    network_class = ChannelUNet
