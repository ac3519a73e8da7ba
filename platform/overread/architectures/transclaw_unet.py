"""TransClaw U-Net (Yao et al. 2021, arXiv:2107.05188): a U-Net with a Transformer and a second way up.

A U-Net's encoder (two Conv3-BN-ReLU per level, `width` * (1, 2, 4, 8) channels, max-pooling), whose last map, pooled to
stride 16, becomes tokens of 12 `width` channels for a ViT of 12 blocks, as in TransUNet. Its map goes up twice. The
upsampling path is plain: bilinear x 2 and one Conv3-BN-ReLU per level, without skips. The decoder takes at each level
the encoder's map, the path's map and its own map from the level below, upsampled the same way, and has two
Conv3-BN-ReLU: the three "claws". A 1x1 head.
Parameters for 3 channels and 9 classes: 107,110,281. None are published.
The paper shows the three ways in a figure; the number of convolutions of each and their channels are inferred, the
Transformer's sizes are those of ViT-B. At the deepest level path and decoder come from the same map, so it is taken
once. All weights start at random.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, cat, nn

from overread.architectures.blocks import DoubleConv, LinearUp, initialise_he, max_pool
from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.encoders import build_encoder
from overread.architectures.heads import SOFTMAX_LOSSES, PlainSegmenter
from overread.architectures.transunet import VisionTransformer
from overread.errors import UserError
from overread.jsonio import JsonRecord

LEVELS = 4
"""Of the encoder; the Transformer is below them."""


@dataclass(frozen=True, kw_only=True)
class TransClawUNetOptions(JsonRecord):
    """Options of TransClaw U-Net; the defaults are U-Net's channels and ViT-B's Transformer."""

    width: int = 64
    """Channels at full resolution, doubled per level; tokens have 12 times as many."""
    transformer_depth: int = 12
    mlp_ratio: int = 4
    dropout: float = 0.1
    """Probability for the embedded tokens and in the MLPs."""
    position_grid: int = 14
    """Side of the learned grid: h / 16 for the published 224 x 224 images; interpolated for others."""

    def __post_init__(self) -> None:
        for name in ("width", "transformer_depth", "mlp_ratio", "position_grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


class TransClawUNet(EncoderDecoder):
    """The wiring of TransClaw U-Net. Inner layers: `encoder`, `transformer`; `path`, `ups`, `decoder`, finest first.

    >>> import torch
    >>> options = TransClawUNetOptions(width=4, transformer_depth=1)
    >>> TransClawUNet(options, in_channels=1)(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 4, 32, 48])
    """

    title = "TransClaw U-Net"

    def __init__(self, options: TransClawUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.encoder = build_encoder("double_conv", in_channels=in_channels, width=options.width, levels=LEVELS)
        channels = self.encoder.channels
        self.size_multiple = 2 * self.encoder.size_multiple
        self.feature_channels, self.bottom_channels = channels[0], 12 * options.width
        self.transformer = VisionTransformer(
            channels[-1],
            self.bottom_channels,
            depth=options.transformer_depth,
            mlp_ratio=options.mlp_ratio,
            dropout=options.dropout,
            position_grid=options.position_grid,
        )
        below = (*channels[1:], self.bottom_channels)
        self.path = nn.ModuleList(LinearUp(2, i, o) for i, o in zip(below, channels, strict=True))
        self.ups = nn.ModuleList(LinearUp(2, i, o) for i, o in zip(channels[1:], channels, strict=False))
        self.decoder = nn.ModuleList(DoubleConv(2, (3 if c != channels[-1] else 2) * c, c) for c in channels)
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's maps, finest first, and the tokens' (B, `bottom_channels`, H / 16, W / 16)."""
        skips = self.encoder(x)
        return skips, self.transformer(max_pool(skips[-1]))

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H, W) from the skips and the tokens' map."""
        plain = self.path[-1](bottom)
        x = self.decoder[-1](cat([skips[-1], plain], 1))
        for level in reversed(range(len(skips) - 1)):
            plain = self.path[level](plain)
            x = self.decoder[level](cat([skips[level], plain, self.ups[level](x)], 1))
        return x


@architecture(
    "transclaw_unet",
    paper="Yao et al. 2021, arXiv:2107.05188",
    options=TransClawUNetOptions,
    published=Published(in_channels=3, classes=9, size=(224, 224)),
    network=TransClawUNet,
)
class TransClawUNetSegmenter(PlainSegmenter):
    """TransClaw U-Net with a softmax head. Loss: cross-entropy and Dice in equal parts, as TransUNet's."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    network_class = TransClawUNet
