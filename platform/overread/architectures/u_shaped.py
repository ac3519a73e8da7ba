"""The U that most of these networks are: an encoder of one stage per level, and a decoder that takes its maps as skips.

Networks say what their stages are made of and how a skip joins what comes up from below; the rest is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, cat, nn

from overread.architectures.blocks import max_pool
from overread.architectures.contract import EncoderDecoder
from overread.errors import UserError


def doubled(width: int, depth: int) -> list[int]:
    """Return the channels of levels that double them, finest first.

    >>> doubled(64, 5)
    [64, 128, 256, 512, 1024]
    """
    return [width << level for level in range(depth)]


def check_depth(depth: int, least: int = 2) -> None:
    """Raise `UserError` unless there are `least` to 7 levels."""
    if not least <= depth <= 7:
        raise UserError(f"depth must be in {least}..7 levels, but got {depth}")


class UShaped(EncoderDecoder):
    """A U with some `channels` per level, finest first, each level at half the resolution of the one before.

    Subclasses build `encoder` and `decoder` (finest first; the decoder has no deepest level), and `ups` where they do
    not replace `join`.
    """

    pooled: ClassVar[bool] = True
    """Max-pooling before every stage but the first; else stages halve the resolution themselves."""

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    ups: nn.ModuleList

    def __init__(self, channels: Sequence[int], *, in_channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.feature_channels, self.bottom_channels = channels[0], channels[-1]
        self.size_multiple = 2 ** (len(channels) - 1)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the deepest map (B, `bottom_channels`, *S / `size_multiple`)."""
        maps: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            x = stage(max_pool(x) if level and self.pooled else x)
            maps.append(x)
        return maps[:-1], x

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, *S) from the skips and the deepest map."""
        for level in reversed(range(len(skips))):
            bottom = self.decoder[level](self.join(level, skips[level], bottom))
        return bottom

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return what the decoder takes at a level: the skip, and the map from below after its `ups`."""
        return cat([skip, self.ups[level](below)], 1)
