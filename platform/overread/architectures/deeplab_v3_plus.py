"""DeepLabv3+ (Chen, Zhu, Papandreou, Schroff, Adam 2018, arXiv:1802.02611): atrous pyramid and a small decoder.

Encoder: a ResNet whose last stages dilate, so that its map has one pixel for 16 x 16 of the image, and atrous spatial
pyramid pooling (ASPP): a Conv1, three Conv3 that dilate by 6, 12 and 18, and the average of the whole map through a
Conv1, 4 `width` channels each, joined by another Conv1 and dropout. Decoder: the ASPP's map is upsampled to a quarter
of the image's size and joined by the map of the first stage, reduced to 3/4 `width` channels by a Conv1; two Conv3 of
4 `width` channels; a 1x1 head, whose logits are upsampled by 4. Convolutions have no bias; a BN and a ReLU follow each.
At an output stride of 8 the rates of the ASPP double, as in the paper.

Parameters for 3 channels and 2 classes: 59,339,426 with ResNet101, 40,347,298 with ResNet50; with the 21 classes of
PASCAL VOC 59,344,309 and 40,352,181: the 59.3M and 40.4M that are usually given.
Differs from the paper: ResNet instead of its other encoder, the modified Xception, and its Conv7 stem as in He et al.;
no multi-grid; all upsampling is `align_corners=False`; a batch of one image normalises the average of the whole map by
running statistics (`blocks.PooledNorm`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, PooledNorm, convolution, initialise_he, upsample
from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.encoders import build_encoder
from overread.architectures.heads import PlainSegmenter
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant

RATES = (6, 12, 18)
"""Dilations of the ASPP at an output stride of 16."""
STRIDE = 4
"""Pixels of the image per pixel of the decoder's map, per side."""


@dataclass(frozen=True, kw_only=True)
class DeepLabV3PlusOptions(JsonRecord):
    """Options of DeepLabv3+; the defaults are the published setting with a ResNet."""

    encoder: Literal["resnet18", "resnet50", "resnet101"] = "resnet101"
    width: int = 64
    """Channels of the ResNet's stem; all others are multiples of it."""
    output_stride: Literal[8, 16] = 16
    """Image size / size of the ResNet's last map; spatial sizes must be multiples of it."""
    dropout: float = 0.1
    """Probability after the ASPP."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class AtrousPyramid(nn.Module):
    """ASPP: what a map looks like at several rates and as a whole."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvUnit(2, inputs, outputs, kernel=1, bias=False),
                *(ConvUnit(2, inputs, outputs, dilation=rate, bias=False) for rate in rates),
            ]
        )
        self.whole = nn.Sequential(
            convolution(2, inputs, outputs, kernel=1, bias=False), PooledNorm(outputs), nn.ReLU(inplace=True)
        )
        joined = (len(rates) + 2) * outputs
        self.join = nn.Sequential(ConvUnit(2, joined, outputs, kernel=1, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        maps = [branch(x) for branch in self.branches]
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand_as(maps[0])
        return self.join(cat([*maps, whole], 1))


class DeepLabV3Plus(EncoderDecoder):
    """The wiring of DeepLabv3+. Inner layers: `encoder`, `pyramid`, `reduce`, `decoder`.

    >>> import torch
    >>> DeepLabV3Plus(DeepLabV3PlusOptions(width=2), in_channels=1)(torch.zeros(2, 1, 16, 32)).shape
    torch.Size([2, 8, 16, 32])
    """

    title = "DeepLabv3+"

    def __init__(self, options: DeepLabV3PlusOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.feature_channels = self.bottom_channels = 4 * options.width
        self.encoder = build_encoder(
            options.encoder,
            in_channels=in_channels,
            width=options.width,
            levels=5,
            output_stride=options.output_stride,
        )
        self.size_multiple = self.encoder.size_multiple
        rates = tuple(16 // options.output_stride * rate for rate in RATES)
        self.pyramid = AtrousPyramid(self.encoder.channels[-1], self.bottom_channels, rates, options.dropout)
        reduced = max(1, 3 * options.width // 4)
        self.reduce = ConvUnit(2, self.encoder.channels[1], reduced, kernel=1, bias=False)
        self.decoder = nn.Sequential(
            ConvUnit(2, reduced + self.bottom_channels, self.feature_channels, bias=False),
            ConvUnit(2, self.feature_channels, self.feature_channels, bias=False),
        )
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the reduced map of the first stage and the ASPP's map (B, 4 `width`, *S / output_stride)."""
        _, first, *_, last = self.encoder(x)
        return [self.reduce(first)], self.pyramid(last)

    def decode_coarsely(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H / 4, W / 4)."""
        (skip,) = skips
        return self.decoder(cat([skip, upsample(bottom, skip.shape[2] // bottom.shape[2])], 1))

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map upsampled, (B, F, H, W)."""
        return upsample(self.decode_coarsely(skips, bottom), STRIDE)


@architecture(
    "deeplab_v3_plus",
    paper="Chen et al. 2018, arXiv:1802.02611",
    options=DeepLabV3PlusOptions,
    published=Published(in_channels=3, classes=2, size=(512, 512)),
    network=DeepLabV3Plus,
    also={
        "deeplab_v3_plus_resnet50": Published(
            in_channels=3, classes=2, size=(512, 512), options={"encoder": "resnet50"}
        )
    },
)
class DeepLabV3PlusSegmenter(PlainSegmenter):
    """DeepLabv3+ with a softmax head. Published loss: cross-entropy."""

    network: DeepLabV3Plus

    network_class = DeepLabV3Plus

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to logits (B, K, H, W): those of the coarse map, upsampled."""
        self.network.check(images)
        return upsample(self.head(self.network.decode_coarsely(*self.network.encode(images))), STRIDE)
