"""The ResNet under the hybrid ViT (Dosovitskiy 2021, arXiv:2010.11929; Kolesnikov et al. 2020, BiT, arXiv:1912.11370).

A 7x7 convolution of stride 2, GroupNorm, ReLU; a max-pooling of stride 2; three stages of bottleneck units with 4, 8
and 16 times the channels of the stem, the second and third with stride 2 (on the 3x3 convolution). R50 has 3, 4 and 9
units: ViT moved those of the fourth stage into the third, so that the last map has stride 16. Convolutions have no bias
and are weight-standardised. "V2" is the name of the released code; its units have the ReLU after the sum, as here.
Differs from TransUNet's code: the max-pooling is padded, so that maps are exact halves (the code has 55 x 55 after the
stem of a 224 x 224 image, and pads the skip with zeros), and a shortcut's norm has 32 groups as all others, as in ViT's
code (there: one group per channel). Neither changes the number of parameters. No pretrained weights are loaded.
"""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.encoders import Encoder

R50 = (3, 4, 9)
"""Units of the three stages."""
GROUPS = 32
"""Of every GroupNorm at the published widths."""


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose weights are standardised per output channel (Qiao 2019, arXiv:1903.10520)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * (variance + 1e-5).rsqrt()
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 32 groups, or of the most that divide `channels` into groups of two or more."""
    groups = 1 if channels % 2 else gcd(GROUPS, channels // 2)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class BottleneckUnit(nn.Module):
    """ReLU(h(x) + f(x)): f is 1x1 to a quarter, 3x3 and 1x1 convolutions; h the identity or, as shapes change, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = outputs // 4
        self.main = nn.Sequential(
            StandardisedConv(inputs, inner, 1),
            group_norm(inner),
            nn.ReLU(inplace=True),
            StandardisedConv(inner, inner, 3, stride),
            group_norm(inner),
            nn.ReLU(inplace=True),
            StandardisedConv(inner, outputs, 1),
            group_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(StandardisedConv(inputs, outputs, 1, stride), group_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return F.relu(self.shortcut(x) + self.main(x), inplace=True)


class ResNetV2(Encoder):
    """The hybrid's ResNet: maps of strides 2, 4, 8, 16 with 1, 4, 8, 16 times `width` channels, published 64.

    >>> maps = ResNetV2(in_channels=3, width=4, units=(1, 1, 1))(torch.zeros(1, 3, 32, 48))
    >>> [tuple(x.shape) for x in maps]
    [(1, 4, 16, 24), (1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]
    """

    spatial_dims = 2

    def __init__(self, *, in_channels: int, width: int = 64, units: tuple[int, ...] = R50) -> None:
        super().__init__()
        self.channels = (width, *(width << level for level in range(2, 2 + len(units))))
        self.strides = tuple(2 << level for level in range(1 + len(units)))
        self.stem = nn.Sequential(
            StandardisedConv(in_channels, width, 7, stride=2), group_norm(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList()
        for stage, repeats in enumerate(units):
            inputs, outputs = self.channels[stage : stage + 2]
            first = BottleneckUnit(inputs, outputs, stride=2 if stage else 1)
            self.stages.append(nn.Sequential(first, *(BottleneckUnit(outputs, outputs) for _ in range(1, repeats))))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, H, W) to the maps (B, channels[i], H / strides[i], W / strides[i]), finest first."""
        maps = [self.stem(x)]
        x = F.max_pool2d(maps[0], 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
