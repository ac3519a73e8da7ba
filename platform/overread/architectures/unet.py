"""U-Net (Ronneberger, Fischer, Brox 2015, arXiv:1505.04597), 2-D and 3-D (Çiçek 2016, arXiv:1606.06650).

Levels of `width`, 2 `width`, 4 `width`, ... channels, two Conv3 per level, max-pooling down; up by a transposed
convolution that halves the channels, concatenation with the skip, two Conv3; a 1x1 head (Fig. 1 of the paper).
Differs from the paper: zero padding (the output has the input's size), a norm after each convolution, and the same
layers in 3-D. Dropout, at the end of the contracting path as in the paper, is off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from overread.architectures.blocks import (
    DoubleConv,
    LinearUp,
    Norm,
    initialise_he,
    transposed_up,
)
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class UNetOptions(JsonRecord):
    """Options of U-Net; the defaults are the published 64..1024 channels."""

    width: int = 64
    """Channels at full resolution; doubled per level."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""
    norm: Norm = "batch"
    upsample: Literal["transposed", "linear"] = "transposed"
    dropout: float = 0.0
    """Probability at the end of the contracting path."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        check_depth(self.depth)
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class UNet(UShaped):
    """The wiring of U-Net. Inner layers: `encoder` and `decoder` (finest first), `ups`, `dropout`.

    >>> import torch
    >>> UNet(UNetOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "U-Net"

    def __init__(self, options: UNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            DoubleConv(spatial_dims, i, o, options.norm) for i, o in zip(inputs, channels, strict=True)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.ups = nn.ModuleList(
            transposed_up(spatial_dims, 2 * c, c)
            if options.upsample == "transposed"
            else LinearUp(spatial_dims, 2 * c, c, options.norm)
            for c in channels[:-1]
        )
        self.decoder = nn.ModuleList(DoubleConv(spatial_dims, 2 * c, c, options.norm) for c in channels[:-1])
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the deepest map (B, `bottom_channels`, *S / size_multiple)."""
        skips, bottom = super().encode(x)
        return skips, self.dropout(bottom)


@architecture(
    "unet",
    paper="Ronneberger et al. 2015, arXiv:1505.04597",
    options=UNetOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
    network=UNet,
)
class UNetSegmenter(PlainSegmenter):
    """U-Net with a softmax head. Published loss: cross-entropy."""

    network_class = UNet
