"""BiO-Net (Xiang, Zhang, Liu, Song, Huang, Cai 2020, arXiv:2007.00243): a U-Net run t times with the same weights.

Forward skips lead from encoder to decoder as in U-Net, backward skips from the decoder of one iteration to the encoder
of the next; the encoder takes cat(x, backward skip), in the first iteration cat(x, x). Every unit is Conv3-ReLU-BN,
its convolution shared by the iterations, its norm not. A stem of three units and a pooling goes before, levels of
`width` * 2^l channels follow: two units whose output is the skip and a third that doubles the channels, then pooling;
at the bottom two units and a transposed convolution; the decoder has two units and a transposed convolution per level.
Two units end the network; with INT (`integrate`) they take the outputs of all iterations, else of the last.
14,996,289 parameters with 3 input channels and 1 output map for t = 3 with INT; the head for background and foreground
has one map, 33 parameters, more. As in the authors' PyTorch code the bottom's norms are shared by the iterations too
(`bottom_norms`; their Keras code has them separate, 6,144 more). Without INT that code holds 2 `width` parameters per
iteration but the last, the norm of an output that nobody reads: they are not made here (64 of 14,971,137 for t = 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import convolution, initialise_he, max_pool
from overread.architectures.contract import Features, Network, Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant


@dataclass(frozen=True, kw_only=True)
class BiONetOptions(JsonRecord):
    """Options of BiO-Net; the defaults are the published best, t = 3 with INT."""

    width: int = 32
    """Channels of the stem and of the first level; doubled per level."""
    depth: int = 4
    """l of the paper: levels of encoder and decoder; spatial sizes must be multiples of 2^(depth + 1)."""
    iterations: int = 3
    """t of the paper: passes through encoder and decoder."""
    integrate: bool = True
    """INT of the paper: read the outputs of all iterations."""
    bottom_norms: Literal["shared", "separate"] = "shared"
    """Whether the iterations share the norms of the deepest level."""

    def __post_init__(self) -> None:
        for name in ("width", "iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if not 1 <= self.depth <= 6:
            raise UserError(f"depth must be in 1..6 levels, but got {self.depth}")


class Unit(nn.Module):
    """Conv-ReLU-BN with a norm for each iteration, or one norm for all."""

    def __init__(self, layer: nn.Module, channels: int, norms: int = 1) -> None:
        super().__init__()
        self.layer = layer
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(norms))

    def forward(self, x: Tensor, iteration: int = 0) -> Tensor:
        """Map (B, C, H, W) to what the layer makes of it, normalised as in this iteration."""
        return self.norms[iteration % len(self.norms)](F.relu(self.layer(x), inplace=True))


def conv_unit(inputs: int, outputs: int, norms: int = 1) -> Unit:
    """Return a Unit of a 3x3 convolution."""
    return Unit(convolution(2, inputs, outputs), outputs, norms)


def up_unit(channels: int, norms: int = 1) -> Unit:
    """Return a Unit of a transposed 3x3 convolution that doubles the size."""
    layer = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)
    return Unit(layer, channels, norms)


class Pair(nn.Module):
    """Two units of equal channels: what a level of the encoder or the decoder does before its skip."""

    def __init__(self, inputs: int, channels: int, norms: int) -> None:
        super().__init__()
        self.first = conv_unit(inputs, channels, norms)
        self.second = conv_unit(channels, channels, norms)

    def forward(self, x: Tensor, iteration: int) -> Tensor:
        """Map (B, inputs, H, W) to the skip (B, channels, H, W)."""
        return self.second(self.first(x, iteration), iteration)


class BiONet(Network):
    """The wiring of BiO-Net. Inner layers: `stem`, `encoder`, `downs`, `bottom`, `decoder`, `ups`, `ending`.

    >>> import torch
    >>> BiONet(BiONetOptions(width=4, depth=2), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "BiO-Net"

    def __init__(self, options: BiONetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.feature_channels = width = options.width
        self.size_multiple = 2 ** (options.depth + 1)
        self.iterations, self.integrate = options.iterations, options.integrate
        norms = options.iterations
        channels = [width << level for level in range(options.depth)]
        self.stem = nn.Sequential(conv_unit(in_channels, width), conv_unit(width, width), conv_unit(width, width))
        self.encoder = nn.ModuleList(Pair(2 * c, c, norms) for c in channels)
        self.downs = nn.ModuleList(conv_unit(c, 2 * c, norms) for c in channels)
        deepest = 2 * channels[-1]
        bottom_norms = norms if options.bottom_norms == "separate" else 1
        self.bottom = nn.ModuleList(
            [*(conv_unit(deepest, deepest, bottom_norms) for _ in range(2)), up_unit(deepest, bottom_norms)]
        )
        self.decoder = nn.ModuleList(Pair(3 * c, c, norms) for c in channels)
        outputs_read = norms if options.integrate else 1
        self.ups = nn.ModuleList(up_unit(c, norms if level else outputs_read) for level, c in enumerate(channels))
        self.ending = nn.Sequential(conv_unit(width * outputs_read, width), conv_unit(width, width))
        initialise_he(self)

    def encode(self, x: Tensor, backward: list[Tensor], iteration: int) -> tuple[list[Tensor], Tensor]:
        """Return the forward skips, finest first, and the map that leaves the bottom, from the backward skips.

        Without backward skips, in the first iteration, every level takes its own input twice.
        """
        skips: list[Tensor] = []
        for level, (pair, down) in enumerate(zip(self.encoder, self.downs, strict=True)):
            skips.append(pair(cat([x, backward[level] if backward else x], 1), iteration))
            x = max_pool(down(skips[-1], iteration))
        for unit in self.bottom:
            x = unit(x, iteration)
        return skips, x

    def decode(self, skips: list[Tensor], x: Tensor, iteration: int) -> list[Tensor]:
        """Return the backward skips, finest first, from the forward skips and the map that left the bottom."""
        backward: list[Tensor] = []
        for level in reversed(range(len(skips))):
            if backward:
                x = self.ups[level + 1](backward[0], iteration)
            backward.insert(0, self.decoder[level](cat([x, skips[level]], 1), iteration))
        return backward

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to (B, width, H, W) through all iterations."""
        self.check(x)
        x = max_pool(self.stem(x))
        backward: list[Tensor] = []
        outputs: list[Tensor] = []
        for iteration in range(self.iterations):
            skips, deep = self.encode(x, backward, iteration)
            backward = self.decode(skips, deep, iteration)
            if self.integrate or iteration == self.iterations - 1:
                outputs.append(self.ups[0](backward[0], iteration))
        return Features(self.ending(cat(outputs, 1)))


@architecture(
    "bio_net",
    paper="Xiang et al. 2020, arXiv:2007.00243",
    options=BiONetOptions,
    published=Published(in_channels=3, classes=2, size=(256, 256)),
    network=BiONet,
)
class BiONetSegmenter(PlainSegmenter):
    """BiO-Net with a softmax head. Published loss: cross-entropy."""

    network_class = BiONet
