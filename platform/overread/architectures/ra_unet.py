"""RA-UNet (Jin et al. 2020, doi:10.3389/fbioe.2020.605132, arXiv:1811.01328): attention residual modules on the skips.

A Conv3-BN-ReLU at full resolution, then a residual block per level, max-pooling before each; the deepest level has
two. Channels are `width` * (1, 1, 2, 4, 8, 16), the first at full resolution. Up: nearest upsampling by 2, one residual
block on the concatenation with the skip (Conv3-BN-ReLU at full resolution); a 3x3 head. A residual block is
h(x) + f(x), f three times BN-ReLU-Conv: 1x1 to a quarter of the channels, 3x3, 1x1; h a 1x1 convolution.
The skip of every residual level passes an attention residual module (1 + S(x)) T(x): one residual block before and one
after, two in the trunk T; the soft mask S is an encoder-decoder that pools down to the deepest level, with a residual
block per step down, one per step up and one on each of its own additive skips, then two 1x1 convolutions and a sigmoid.
The full-resolution skip is plain. RA-UNet-I finds the liver in slices, RA-UNet-II segments volumes: both are settings,
without the cropping between them; the default is the 2-D form at the width of RA-UNet-II.
Differs from the paper's equation, as the authors' code does: h is a convolution even where the channels stay, which
makes the paper's 641 layers (52 blocks of 11, and 69). 4,421,714 parameters in 3-D and 2,916,626 in 2-D, for 1 channel
and 2 classes; the code has one sigmoid map, so 865 and 289 fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, convolution, initialise_he, max_pool, nearest, normalisation
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class RAUNetOptions(JsonRecord):
    """Options of RA-UNet; the defaults are the published 32..512 channels of RA-UNet-II."""

    width: int = 32
    """Channels of the two finest levels; doubled per level below. At least 4, for a block has a quarter inside."""
    depth: int = 6
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""

    def __post_init__(self) -> None:
        if self.width < 4:
            raise UserError(f"width must be at least 4, but got {self.width}")
        check_depth(self.depth)


class ResidualBlock(nn.Module):
    """h(x) + f(x), pre-activated: (B, inputs, *S) to (B, outputs, *S)."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 4

        def unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(
                normalisation("batch", spatial_dims, inputs),
                nn.ReLU(inplace=True),
                convolution(spatial_dims, inputs, outputs, kernel),
            )

        self.main = nn.Sequential(unit(inputs, inner, 1), unit(inner, inner, 3), unit(inner, outputs, 1))
        self.shortcut = convolution(spatial_dims, inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *S) to (B, outputs, *S)."""
        return self.shortcut(x) + self.main(x)


class SoftMask(nn.Module):
    """The encoder-decoder of S: `depth` poolings down and as many upsamplings back, by one level and a smaller one."""

    def __init__(self, spatial_dims: int, channels: int, depth: int) -> None:
        super().__init__()
        self.down = ResidualBlock(spatial_dims, channels, channels)
        self.inner = nn.ModuleDict()
        if depth > 1:
            self.inner["skip"] = ResidualBlock(spatial_dims, channels, channels)
            self.inner["mask"] = SoftMask(spatial_dims, channels, depth - 1)
        self.up = ResidualBlock(spatial_dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, *S) to the same shape."""
        x = self.down(max_pool(x))
        if self.inner:
            x = self.inner["skip"](x) + self.inner["mask"](x)
        return nearest(self.up(x), 2)


class AttentionResidual(nn.Module):
    """(1 + S(x)) T(x) between two residual blocks. Inner layers: `before`, `trunk` (T), `mask` (S), `after`."""

    def __init__(self, spatial_dims: int, channels: int, depth: int) -> None:
        super().__init__()
        self.before, self.after, *trunk = (ResidualBlock(spatial_dims, channels, channels) for _ in range(4))
        self.trunk = nn.Sequential(*trunk)
        self.mask = nn.Sequential(
            SoftMask(spatial_dims, channels, depth),
            convolution(spatial_dims, channels, channels, kernel=1),
            convolution(spatial_dims, channels, channels, kernel=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, *S) to the same shape."""
        x = self.before(x)
        return self.after((1 + self.mask(x)) * self.trunk(x))


class RAUNet(UShaped):
    """The wiring of RA-UNet. Inner layers: `encoder`, `attention` (from level 1) and `decoder`, finest first; `bottom`.

    >>> import torch
    >>> RAUNet(RAUNetOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "RA-UNet"

    def __init__(self, options: RAUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        deepest = options.depth - 1
        channels = [options.width, *doubled(options.width, deepest)]
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        pairs = list(pairwise(channels))
        self.encoder = nn.ModuleList([ConvUnit(spatial_dims, in_channels, channels[0])])
        self.encoder.extend(ResidualBlock(spatial_dims, fine, coarse) for fine, coarse in pairs)
        self.bottom = ResidualBlock(spatial_dims, channels[-1], channels[-1])
        self.attention = nn.ModuleList(
            AttentionResidual(spatial_dims, channels[level], deepest - level) for level in range(1, deepest)
        )
        self.decoder = nn.ModuleList([ConvUnit(spatial_dims, sum(pairs[0]), channels[0])])
        self.decoder.extend(ResidualBlock(spatial_dims, fine + coarse, fine) for fine, coarse in pairs[1:])
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, before their attention, and the deepest map (B, `bottom_channels`, *s)."""
        skips, bottom = super().encode(x)
        return skips, self.bottom(bottom)

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the map from below and the skip, through its attention where it has one."""
        return cat([nearest(below, 2), self.attention[level - 1](skip) if level else skip], 1)


@architecture(
    "ra_unet",
    paper="Jin et al. 2020, RA-UNet, doi:10.3389/fbioe.2020.605132",
    options=RAUNetOptions,
    published=Published(in_channels=1, classes=2, size=(224, 224)),
    spatial_dims=(2, 3),
    also={
        "ra_unet_i": Published(in_channels=1, classes=2, size=(224, 224), options={"width": 16}),
        "ra_unet_ii": Published(in_channels=1, classes=2, size=(32, 224, 224)),
    },
    network=RAUNet,
)
class RAUNetSegmenter(PlainSegmenter):
    """RA-UNet with a 3x3 softmax head. Published loss: Dice."""

    default_losses = {"ce": 0.0, "dice": 1.0}  # noqa: RUF012  (declared a ClassVar by Segmenter)

    network_class = RAUNet
    kernel = 3
