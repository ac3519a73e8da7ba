"""R50 U-Net and R50 Attention U-Net, comparators of TransUNet (Chen et al. 2021, arXiv:2102.04306, section 4.2).

The encoder of U-Net, or of Attention U-Net, is replaced by a ResNet-50. Theirs is the hybrid's (`resnet_v2`: maps of
strides 2, 4, 8 and 16 with 1, 4, 8 and 16 `width` channels), the deepest of which is the bottom. Four steps up, to 8,
4, 2 and 1 `width` channels: upsampling by 2, concatenation with the map of that size (none at full resolution) and two
Conv3-BN-ReLU. R50 U-Net upsamples by transposed convolutions; with `gates` as Attention U-Net does, linearly with a
Conv3, and a skip passes an additive gate (`attention_unet.Gate`). A 1x1 head.
Parameters for 3 channels and 9 classes: 23,977,161 and with `gates` 27,797,426. None are published.
The paper says no more than the first sentence: the decoder is inferred from the two U-Nets. No ImageNet weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, cat, nn

from overread.architectures.attention_unet import Gate
from overread.architectures.blocks import DoubleConv, LinearUp, initialise_he, transposed_up
from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, PlainSegmenter
from overread.architectures.resnet_v2 import R50, ResNetV2
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class R50UNetOptions(JsonRecord):
    """Options of R50 U-Net; the defaults are the published ResNet-50 without gates."""

    width: int = 64
    """Channels of the ResNet's stem and at full resolution; all others follow. At least 4."""
    units: tuple[int, int, int] = R50
    """Bottleneck units of the ResNet's three stages."""
    gates: bool = False
    """Whether the skips pass the gates of Attention U-Net."""

    def __post_init__(self) -> None:
        if self.width < 4:
            raise UserError(f"width must be at least 4, but got {self.width}")
        if min(self.units) < 1:
            raise UserError(f"units must be at least 1 in every stage, but got {list(self.units)}")


class R50UNet(EncoderDecoder):
    """The wiring of both. Inner layers: `encoder`; `ups`, `decoder` and `gates` (where there are any), finest first.

    >>> import torch
    >>> R50UNet(R50UNetOptions(width=4, units=(1, 1, 1)), in_channels=1)(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 4, 32, 48])
    """

    title = "R50 U-Net"

    def __init__(self, options: R50UNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.encoder = ResNetV2(in_channels=in_channels, width=options.width, units=options.units)
        self.size_multiple = self.encoder.size_multiple
        *skips, self.bottom_channels = self.encoder.channels
        outputs = [options.width << level for level in range(4)]
        self.feature_channels = outputs[0]
        inputs = [*outputs[1:], self.bottom_channels]
        up = LinearUp if options.gates else transposed_up
        self.ups = nn.ModuleList(up(2, i, o) for i, o in zip(inputs, outputs, strict=True))
        self.decoder = nn.ModuleList(DoubleConv(2, skip + o, o) for skip, o in zip([0, *skips], outputs, strict=True))
        self.gates: nn.ModuleList | None = None
        if options.gates:
            self.gates = nn.ModuleList(Gate(2, skip, gating=o) for skip, o in zip(skips, outputs[1:], strict=True))
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips of strides 2, 4 and 8 and the deepest map (B, `bottom_channels`, H / 16, W / 16)."""
        *skips, bottom = self.encoder(x)
        return skips, bottom

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H, W) from the skips and the deepest map."""
        for level in reversed(range(1, len(self.ups))):
            up, skip = self.ups[level](bottom), skips[level - 1]
            if self.gates is not None:
                skip = self.gates[level - 1](skip, up)
            bottom = self.decoder[level](cat([skip, up], 1))
        return self.decoder[0](self.ups[0](bottom))


@architecture(
    "r50_unet",
    paper="Chen et al. 2021, arXiv:2102.04306 (as a comparator)",
    options=R50UNetOptions,
    published=Published(in_channels=3, classes=9, size=(224, 224)),
    also={"r50_attention_unet": Published(in_channels=3, classes=9, size=(224, 224), options={"gates": True})},
    network=R50UNet,
)
class R50UNetSegmenter(PlainSegmenter):
    """R50 U-Net with a softmax head. Loss: cross-entropy and Dice in equal parts, as TransUNet's."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    network_class = R50UNet
