"""PSPNet (Zhao, Shi, Qi, Wang, Jia 2017, arXiv:1612.01105): a dilated ResNet and pyramid pooling.

The ResNet strides by 8; its last two stages dilate. Its map of 32 `width` channels is averaged into 1, 2 x 2, 3 x 3 and
6 x 6 regions; each goes through a Conv1-BN-ReLU to a quarter of the channels and is upsampled (bilinear). Map and
regions together go through a Conv3-BN-ReLU to 8 `width` channels, dropout and a 1x1 head, whose logits are upsampled
by 8. In training a second head, Conv3-BN-ReLU, dropout and Conv1, on the third stage adds its loss, weight 0.4.

Parameters for 3 channels and 2 classes: 48,943,172, of which 2,360,322 are the auxiliary head's and are not read with:
46,582,850. With the 19 classes of Cityscapes they are 48,956,262 and 46,591,571: the 46.7M and 49.0M that are usually
given, up to the stem of three Conv3 that many releases have for the Conv7 of He et al. (19 thousand parameters).
Differs from the paper: all upsampling is `align_corners=False`, which fits sizes that are multiples of 8; a batch of
one image normalises the region that is the whole image by running statistics (`blocks.PooledNorm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, PooledNorm, convolution, initialise_he, upsample
from overread.architectures.contract import Features, Losses, Network, Published, architecture
from overread.architectures.encoders import build_encoder
from overread.architectures.heads import SOFTMAX_LOSSES, SoftmaxSegmenter, check_weights, softmax_losses
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Batch, Variant

AUXILIARY = "auxiliary"
"""Name of the map, the head and the loss term of the third stage."""
BINS = (1, 2, 3, 6)
"""Regions per side of the pyramid's levels."""
STRIDE = 8
"""Pixels of the image per pixel of the ResNet's map, per side."""


@dataclass(frozen=True, kw_only=True)
class PSPNetOptions(JsonRecord):
    """Options of PSPNet; the defaults are the published setting with the smaller of its two ResNets."""

    encoder: Literal["resnet18", "resnet50", "resnet101"] = "resnet50"
    width: int = 64
    """Channels of the ResNet's stem; all others are multiples of it."""
    dropout: float = 0.1
    """Probability for whole channels before each head."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class PyramidPooling(nn.Module):
    """The map beside its averages over the regions of each level of the pyramid: twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // len(BINS)
        self.levels = nn.ModuleList(
            nn.Sequential(convolution(2, channels, part, kernel=1, bias=False), PooledNorm(part), nn.ReLU(inplace=True))
            for _ in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 2 C, H, W)."""
        size = (x.shape[2], x.shape[3])
        regions = [
            F.interpolate(level(F.adaptive_avg_pool2d(x, bins)), size=size, mode="bilinear")
            for bins, level in zip(BINS, self.levels, strict=True)
        ]
        return cat([x, *regions], 1)


class PSPNet(Network):
    """The wiring of PSPNet. Inner layers: `encoder`, `pyramid`, `fuse`.

    >>> import torch
    >>> PSPNet(PSPNetOptions(width=2), in_channels=1)(torch.zeros(2, 1, 16, 32)).shape
    torch.Size([2, 16, 16, 32])
    """

    title = "PSPNet"

    def __init__(self, options: PSPNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.encoder = build_encoder(
            options.encoder, in_channels=in_channels, width=options.width, levels=5, output_stride=STRIDE
        )
        self.size_multiple = self.encoder.size_multiple
        *_, self.auxiliary_channels, deepest = self.encoder.channels
        self.feature_channels = deepest // len(BINS)
        self.pyramid = PyramidPooling(deepest)
        self.fuse = nn.Sequential(
            ConvUnit(2, 2 * deepest, self.feature_channels, bias=False), nn.Dropout2d(options.dropout)
        )
        initialise_he(self)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) to the last map (B, F, H / 8, W / 8) and that of the third stage."""
        self.check(x)
        *_, third, last = self.encoder(x)
        return self.fuse(self.pyramid(last)), third

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to the upsampled last map (B, F, H, W); deep: the third stage, `auxiliary`."""
        last, third = self.maps(x)
        return Features(upsample(last, STRIDE), {AUXILIARY: third})


@architecture(
    "pspnet",
    paper="Zhao et al. 2017, arXiv:1612.01105",
    options=PSPNetOptions,
    published=Published(in_channels=3, classes=2, size=(480, 480)),
    network=PSPNet,
)
class PSPNetSegmenter(SoftmaxSegmenter):
    """PSPNet with its heads. Published loss: cross-entropy of the head, and 0.4 times that of the auxiliary head.

    Both heads have the terms `ce` and `dice`; `auxiliary` weighs those of the second. Without it there is no second.
    """

    default_losses = SOFTMAX_LOSSES | {AUXILIARY: 0.4}

    network: PSPNet

    def __init__(
        self,
        options: PSPNetOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = PSPNet(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.auxiliary_weight = self.loss_weights.pop(AUXILIARY)
        check_weights(self.loss_weights)
        self.auxiliary: nn.Sequential | None = None
        if self.auxiliary_weight:
            inputs, inner = network.auxiliary_channels, max(1, network.auxiliary_channels // len(BINS))
            self.auxiliary = nn.Sequential(
                ConvUnit(2, inputs, inner, bias=False),
                nn.Dropout2d(options.dropout),
                convolution(2, inner, classes, kernel=1),
            )
            initialise_he(self.auxiliary)

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to logits (B, K, H, W): those of the coarse map, upsampled."""
        return upsample(self.head(self.network.maps(images)[0]), STRIDE)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `ce`, `dice` and `auxiliary` (where weighted) and "loss"."""
        last, third = self.network.maps(batch.images)
        targets = batch.soft_targets(self.classes)
        losses = softmax_losses(upsample(self.head(last), STRIDE), targets, self.loss_weights)
        if self.auxiliary is None:
            return losses
        second = softmax_losses(upsample(self.auxiliary(third), STRIDE), targets, self.loss_weights)["loss"]
        return losses | {"loss": losses["loss"] + self.auxiliary_weight * second, AUXILIARY: second.detach()}
