"""TransCASCADE (Rahman, Marculescu 2023, WACV, "Medical image segmentation via cascaded attention decoding").

The encoder is TransUNet's R50-ViT-B/16 (`transunet`). The cascaded attention decoder has four levels, of strides 16, 8,
4 and 2, with 12, 8, 4 and 1 `width` channels. The tokens' map goes through a 1x1 convolution; at each finer level the
map below comes up (nearest x 2, Conv3-BN-ReLU), gates the skip (the additive gate of Attention U-Net) and is
concatenated with it. At every level a convolutional attention module follows: channel attention, spatial attention (a
7x7 convolution, the same at all levels) and two Conv3-BN-ReLU (CBAM's attentions, Woo et al. 2018, arXiv:1807.06521).
Each level has a 1x1 head whose logits are upsampled (bilinear) to the image. The four are trained each by
itself, 0.3 cross-entropy + 0.7 Dice, and the losses summed; what is read is the softmax of the sum of their logits.
123,487,727 parameters for 3 channels and 9 classes. The released code has 12 more: it makes three channels of a grey
image by a 1x1 convolution with BN; here the ResNet takes the channels that there are.
Differs from the code: what `transunet` says of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, cat, nn

from overread.architectures.attention_unet import Gate
from overread.architectures.blocks import ConvUnit, DoubleConv, convolution, initialise_he, nearest, upsample
from overread.architectures.contract import Features, Losses, Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, SoftmaxSegmenter, softmax_losses, start_from_prior
from overread.architectures.transunet import HybridNetwork, HybridOptions
from overread.records import Batch, Variant

REDUCTION = 16
"""Of the channels inside channel attention."""
FINEST = 2
"""Stride of the decoder's last level."""


@dataclass(frozen=True, kw_only=True)
class TransCascadeOptions(HybridOptions):
    """Options of TransCASCADE; the defaults are the published ones."""


class ChannelAttention(nn.Module):
    """x times the sigmoid of a two-layer perceptron on the mean and on the maximum of each channel, summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // REDUCTION, 1)
        self.perceptron = nn.Sequential(
            convolution(2, channels, inner, kernel=1, bias=False),
            nn.ReLU(inplace=True),
            convolution(2, inner, channels, kernel=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mean, highest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * (self.perceptron(mean) + self.perceptron(highest)).sigmoid()


class SpatialAttention(nn.Module):
    """x times the sigmoid of a 7x7 convolution on the mean and the maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = convolution(2, 2, 1, kernel=7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x * self.convolution(cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class TransCascade(HybridNetwork):
    """The wiring of TransCASCADE. Inner layers: `resnet`, `transformer`; `first`, `ups`, `gates`; `channel_attention`,
    `spatial_attention`, `blocks`, coarsest first.

    >>> options = TransCascadeOptions(width=4, units=(1, 1, 1), transformer_depth=1)
    >>> TransCascade(options, in_channels=1)(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 4, 32, 48])
    """

    title = "TransCASCADE"

    def __init__(self, options: TransCascadeOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__(options, in_channels=in_channels, spatial_dims=spatial_dims)
        skips = self.skip_channels[::-1]
        self.channels = (self.bottom_channels, *skips)
        self.feature_channels = self.channels[-1]
        inner = (*skips[1:], max(skips[-1] // 2, 1))  # a gate has the channels of the next finer level inside
        inputs = (self.channels[0], *(2 * skip for skip in skips))
        self.first = convolution(2, self.bottom_channels, self.bottom_channels, kernel=1)
        self.ups = nn.ModuleList(ConvUnit(2, coarse, fine) for coarse, fine in pairwise(self.channels))
        self.gates = nn.ModuleList(Gate(2, skip, inner=within) for skip, within in zip(skips, inner, strict=True))
        self.channel_attention = nn.ModuleList(ChannelAttention(count) for count in inputs)
        self.spatial_attention = SpatialAttention()
        self.blocks = nn.ModuleList(DoubleConv(2, i, o) for i, o in zip(inputs, self.channels, strict=True))
        initialise_he(self)

    def levels(self, skips: list[Tensor], bottom: Tensor) -> list[Tensor]:
        """Return the decoder's maps, of strides 16, 8, 4 and 2, from the skips and the tokens' map."""
        maps = [self._attend(0, self.first(bottom))]
        for level, skip in enumerate(reversed(skips), start=1):
            up = self.ups[level - 1](nearest(maps[-1], 2))
            maps.append(self._attend(level, cat([self.gates[level - 1](skip, up), up], 1)))
        return maps

    def _attend(self, level: int, x: Tensor) -> Tensor:
        """Return the map of a level after its convolutional attention module."""
        return self.blocks[level](self.spatial_attention(self.channel_attention[level](x)))

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the finest map, upsampled (B, F, H, W), from the skips and the tokens' map."""
        return upsample(self.levels(skips, bottom)[-1], FINEST)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to the finest map, upsampled (B, F, H, W); deep: all four, `stride_16` to `stride_2`."""
        self.check(x)
        maps = self.levels(*self.encode(x))
        deep = {f"stride_{x.shape[-1] // level.shape[-1]}": level for level in maps}
        return Features(upsample(maps[-1], FINEST), deep)


@architecture(
    "trans_cascade",
    paper="Rahman and Marculescu 2023, doi:10.1109/WACV56688.2023.00616",
    options=TransCascadeOptions,
    published=Published(in_channels=3, classes=9, size=(224, 224)),
    network=TransCascade,
)
class TransCascadeSegmenter(SoftmaxSegmenter):
    """TransCASCADE with its heads: `head` is that of the finest level, `coarse_heads` are the others, coarsest first.

    Published loss: 0.3 cross-entropy + 0.7 Dice, summed over the four heads.
    """

    default_losses = SOFTMAX_LOSSES | {"ce": 0.3, "dice": 0.7}

    network: TransCascade

    def __init__(
        self,
        options: TransCascadeOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = TransCascade(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.coarse_heads = nn.ModuleList(
            start_from_prior(convolution(2, channels, classes, kernel=1), classes) for channels in network.channels[:-1]
        )

    def all_logits(self, images: Tensor) -> list[Tensor]:
        """Return the logits of the four heads, (B, K, H, W) each, coarsest first."""
        self.network.check(images)
        maps = self.network.levels(*self.network.encode(images))
        heads = [*self.coarse_heads, self.head]
        return [
            upsample(head(level), images.shape[-1] // level.shape[-1]) for head, level in zip(heads, maps, strict=True)
        ]

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to the sum of the heads' logits (B, K, H, W)."""
        return torch.stack(self.all_logits(images)).sum(0)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `ce`, `dice` (where weighted) and "loss", each summed over the heads."""
        targets = batch.soft_targets(self.classes)
        losses = [softmax_losses(logits, targets, self.loss_weights) for logits in self.all_logits(batch.images)]
        return {term: torch.stack([each[term] for each in losses]).sum() for term in losses[0]}
