"""FCN-32s (Long, Shelhamer, Darrell 2015, arXiv:1411.4038): VGG16 with its classifier slid over the image.

The thirteen Conv3-ReLU of VGG16, max-pooled after each of their five stages; its first two fully connected layers as a
Conv7 and a Conv1 of 64 `width` channels with ReLU and dropout; a 1x1 head, whose logits are upsampled by 32. There are
no norms and no skips: nothing finer than 32 pixels is seen but by the classifier.

Parameters for 3 channels: 134,264,641 with one output, 134,268,738 with the two classes here (usually given: 134.3M).
Differs from the paper: the Conv7 is padded by 3, so that sizes that are multiples of 32 come back, instead of the image
by 100 with a crop at the end; upsampling is bilinear, which is what the paper's last filters are fixed to.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from overread.architectures.blocks import convolution, initialise_he, upsample
from overread.architectures.contract import Features, Network, Published, architecture
from overread.architectures.encoders import VGG16_STAGES
from overread.architectures.heads import PlainSegmenter
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant

STRIDE = 2 ** len(VGG16_STAGES)
"""Pixels of the image per pixel of the last map, per side: 32."""


@dataclass(frozen=True, kw_only=True)
class FCN32sOptions(JsonRecord):
    """Options of FCN-32s; the defaults are the published VGG16."""

    width: int = 64
    """Channels of the first stage; all others are multiples of it."""
    dropout: float = 0.5
    """Probability after each layer of the classifier."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class FCN32s(Network):
    """The wiring of FCN-32s. Inner layers: `stages`, `classifier`.

    >>> import torch
    >>> FCN32s(FCN32sOptions(width=2), in_channels=1)(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 128, 32, 64])
    """

    title = "FCN-32s"

    def __init__(self, options: FCN32sOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.size_multiple = STRIDE
        self.feature_channels = options.width * 64
        self.stages = nn.Sequential()
        inputs = in_channels
        for factor, convolutions in VGG16_STAGES:
            self.stages.append(_stage(inputs, factor * options.width, convolutions))
            inputs = factor * options.width
        self.classifier = nn.Sequential(
            convolution(2, inputs, self.feature_channels, kernel=7),
            nn.ReLU(inplace=True),
            nn.Dropout(options.dropout),
            convolution(2, self.feature_channels, self.feature_channels, kernel=1),
            nn.ReLU(inplace=True),
            nn.Dropout(options.dropout),
        )
        initialise_he(self)

    def map(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the last map (B, F, H / 32, W / 32)."""
        self.check(x)
        return self.classifier(self.stages(x))

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to the upsampled last map (B, F, H, W)."""
        return Features(upsample(self.map(x), STRIDE))


def _stage(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """Return Conv3-ReLU units and a max-pooling."""
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers += [convolution(2, outputs if index else inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


@architecture(
    "fcn32s",
    paper="Long et al. 2015, arXiv:1411.4038",
    options=FCN32sOptions,
    published=Published(in_channels=3, classes=2, size=(64, 64)),
    network=FCN32s,
)
class FCN32sSegmenter(PlainSegmenter):
    """FCN-32s with a softmax head. Published loss: cross-entropy."""

    network: FCN32s

    network_class = FCN32s

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to logits (B, K, H, W): those of the coarse map, upsampled."""
        return upsample(self.head(self.network.map(images)), STRIDE)
