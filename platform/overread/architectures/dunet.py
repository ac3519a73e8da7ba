"""DUNet (Jin, Meng, Pham, Chen, Wei, Su 2019, arXiv:1811.01206): a U-Net of deformable convolutions.

A plain Conv3-BN-ReLU, then levels of `width`, 2 `width`, 4 `width`, ... channels. A level of the encoder is two
deformable units (offsets, deformable Conv3, BN, ReLU), the deepest three; max-pooling between them. Up: upsampling by 2
(nearest), concatenation with the skip, a plain Conv3 that brings the channels back to the level's, two deformable
units; a 1x1 head. All levels are deformable, as in the paper; 32..512 channels are those of its code.
Differs from the paper: a unit has 18 offset channels, one offset per tap, as Dai et al. define it and as the authors'
later code has it; their first code gives every channel one offset for all taps, which takes 2 offset channels per
input channel and 15,240,042 more parameters. Offsets have a bias and start at zero, the plain convolution.
Parameters: 11,488,440 for 1 channel and 2 classes, 482,454 of them for the offsets. No printed count is known; the
authors' later code is a smaller network, 16..128 channels, with deformable units at half of its levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, convolution, initialise_he, nearest, normalisation
from overread.architectures.contract import Published, architecture
from overread.architectures.deformable import DeformableConv
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class DUNetOptions(JsonRecord):
    """Options of DUNet; the defaults are the published 32..512 channels, deformable throughout."""

    width: int = 32
    """Channels at full resolution; doubled per level."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""
    deformable: tuple[bool, ...] = ()
    """Whether the units of each level are deformable, finest first; missing levels are. The finest cost the most."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        check_depth(self.depth)
        if len(self.deformable) > self.depth:
            raise UserError(f"deformable must have at most {self.depth} levels, but got {len(self.deformable)}")


class DeformableUnit(nn.Sequential):
    """Deformable Conv3 -> BN -> ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(DeformableConv(inputs, outputs), normalisation("batch", 2, outputs), nn.ReLU(inplace=True))


class DUNet(UShaped):
    """The wiring of DUNet. Inner layers: `stem`; `encoder`, `merges` and `decoder` (finest first).

    >>> import torch
    >>> DUNet(DUNetOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "DUNet"

    def __init__(self, options: DUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        deformable = [*options.deformable, *[True] * options.depth][: options.depth]
        inputs = [options.width, *channels[:-1]]
        self.stem = ConvUnit(2, in_channels, options.width)
        self.encoder = nn.ModuleList(_units(d, i, o, o) for d, i, o in zip(deformable, inputs, channels, strict=True))
        self.encoder[-1] = _units(deformable[-1], inputs[-1], *[channels[-1]] * 3)
        self.merges = nn.ModuleList(convolution(2, 3 * c, c) for c in channels[:-1])
        self.decoder = nn.ModuleList(_units(d, c, c, c) for d, c in zip(deformable[:-1], channels[:-1], strict=True))
        initialise_he(self)
        for layer in self.modules():
            if isinstance(layer, DeformableConv):
                layer.rest()

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the deepest map (B, `bottom_channels`, *S / size_multiple)."""
        return super().encode(self.stem(x))

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the map from below and the skip, merged to the level's channels."""
        return self.merges[level](cat([nearest(below, 2), skip], 1))


def _units(deformable: bool, *channels: int) -> nn.Sequential:
    """Return units from each number of channels to the next."""
    unit = DeformableUnit if deformable else partial(ConvUnit, 2)
    return nn.Sequential(*(unit(i, o) for i, o in pairwise(channels)))


@architecture(
    "dunet",
    paper="Jin et al. 2019, DUNet: A deformable network for retinal vessel segmentation, arXiv:1811.01206",
    options=DUNetOptions,
    published=Published(in_channels=1, classes=2, size=(48, 48)),
    network=DUNet,
)
class DUNetSegmenter(PlainSegmenter):
    """DUNet with a softmax head. Published loss: cross-entropy."""

    network_class = DUNet
