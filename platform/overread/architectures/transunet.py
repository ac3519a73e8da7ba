"""TransUNet (Chen et al. 2021, arXiv:2102.04306): R50-ViT-B/16 as encoder, a cascaded upsampler with skips as decoder.

The last map of a hybrid ResNet (`resnet_v2`, stride 16) becomes tokens of d = 12 `width` channels by a 1x1 convolution;
a learned position is added; a ViT of 12 blocks (heads of 64 channels, MLP 4 d, dropout) encodes them (Eqs. 1-3). The
cascaded upsampler brings the tokens' map by a Conv3 to 8 `width` channels and then four times through bilinear
upsampling by 2, concatenation with the ResNet's map of that size (strides 8, 4, 2; none at full resolution) and two
Conv3-BN-ReLU, to 4, 2, 1 and 1/4 `width` channels. A 3x3 head.
105,277,081 parameters for 3 channels, 9 classes and 224 x 224 images: those of the released code.
`skips` 0 is R50-ViT-CUP, "R50 ViT" of the tables: 103,765,657 parameters.
The paper's forms without a ResNet (`encoder` "vit") take patches of 16 x 16 pixels for tokens and have no skips:
ViT-CUP, 91,674,201 parameters, and with `upsampler` "bilinear" ViT-None, "ViT" of the tables, a 1x1 head on the tokens
whose logits are upsampled by 16: 85,804,041 (both counted here, not read in a paper).
Differs from the code: what `resnet_v2` says; positions are a grid that is interpolated to other sizes; grey images stay
one channel. The official weights (.npz, ImageNet-21k) are not loaded: all weights start at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, cat, nn

from overread.architectures.blocks import ConvUnit, initialise_he, upsample
from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, SoftmaxSegmenter
from overread.architectures.resnet_v2 import R50, ResNetV2
from overread.architectures.transformer import Encoder, PositionGrid, heads_of
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant

STRIDE = 16
"""Pixels of the image per token, per side."""


@dataclass(frozen=True, kw_only=True)
class HybridOptions(JsonRecord):
    """Options of the R50-ViT-B/16; the defaults are the published ones."""

    width: int = 64
    """Channels of the ResNet's stem; all others follow: tokens have 12 times as many. At least 4."""
    units: tuple[int, int, int] = R50
    """Bottleneck units of the ResNet's three stages."""
    transformer_depth: int = 12
    mlp_ratio: int = 4
    dropout: float = 0.1
    """Probability for the embedded tokens and in the MLPs."""
    position_grid: int = 14
    """Side of the learned grid: h / 16 for the published 224 x 224 images; interpolated for others."""

    def __post_init__(self) -> None:
        if self.width < 4:
            raise UserError(f"width must be at least 4, but got {self.width}")
        if min(self.units) < 1:
            raise UserError(f"units must be at least 1 in every stage, but got {list(self.units)}")
        for name in ("transformer_depth", "mlp_ratio", "position_grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class TransUNetOptions(HybridOptions):
    """Options of TransUNet; the defaults are the published R50-ViT-B/16 with three skips."""

    encoder: Literal["hybrid", "vit"] = "hybrid"
    """What tokens are made of: the ResNet's last map, or patches of the image."""
    upsampler: Literal["cascaded", "bilinear"] = "cascaded"
    skips: int = 3
    """Skips from the ResNet to the cascaded upsampler, coarsest first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.skips <= 3:
            raise UserError(f"skips must be in 0..3, but got {self.skips}")
        if self.skips and (self.encoder, self.upsampler) != ("hybrid", "cascaded"):
            raise UserError(
                f"skips must be 0 unless the encoder is hybrid and the upsampler cascaded, but got {self.skips} with "
                f"{self.encoder} and {self.upsampler}: set skips to 0"
            )


def upsampler_widths(width: int) -> tuple[int, ...]:
    """Return the channels of the cascaded upsampler, 512, 256, 128, 64 and 16 at width 64; the last are at least 4."""
    return (8 * width, 4 * width, 2 * width, width, max(width // 4, 4))


class VisionTransformer(nn.Module):
    """Tokens of a map by patch embedding and position, a Transformer encoder, and the map that they are again."""

    def __init__(
        self,
        inputs: int,
        tokens: int,
        *,
        depth: int,
        patch: int = 1,
        mlp_ratio: int = 4,
        dropout: float = 0.1,
        position_grid: int = 14,
    ) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(inputs, tokens, patch, stride=patch)
        self.position = PositionGrid(tokens, position_grid)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(tokens, depth, heads_of(tokens), mlp_ratio, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, tokens, H / patch, W / patch)."""
        x = self.embedding(x)
        size = tuple(x.shape[2:])
        tokens = self.dropout(x + self.position(size)).flatten(2).transpose(1, 2)
        return self.encoder(tokens).transpose(1, 2).unflatten(2, size)


class CascadedUpsampler(nn.Module):
    """The decoder (CUP): a ConvUnit, then per step upsampling by 2, a skip where there is one, and two ConvUnits.

    `channels` are those after the first unit and after each step, `skips` those of the skips, coarsest first.
    """

    def __init__(self, inputs: int, channels: tuple[int, ...], skips: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.first = ConvUnit(2, inputs, channels[0], bias=False)
        added = (*skips, *[0] * len(channels))  # the finer steps have no skip
        self.steps = nn.ModuleList(
            nn.Sequential(ConvUnit(2, i + skip, o, bias=False), ConvUnit(2, o, o, bias=False))
            for i, o, skip in zip(channels[:-1], channels[1:], added, strict=False)
        )

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Map (B, inputs, H, W) and the skips, coarsest first, to (B, channels[-1], H * 2^steps, W * 2^steps)."""
        x = self.first(x)
        for level, step in enumerate(self.steps):
            x = step(cat([upsample(x, align_corners=True), *skips[level : level + 1]], 1))
        return x


class HybridNetwork(EncoderDecoder):
    """A network whose encoder is the R50-ViT-B/16, or with `patches` its ViT alone. Subclasses add the decoder.

    Inner layers: `resnet` (None with `patches`), `transformer`.
    """

    def __init__(self, options: HybridOptions, *, in_channels: int, spatial_dims: int, patches: bool = False) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.size_multiple = STRIDE
        self.bottom_channels = 12 * options.width
        self.resnet: ResNetV2 | None = None
        self.skip_channels: tuple[int, ...] = ()
        if not patches:
            self.resnet = ResNetV2(in_channels=in_channels, width=options.width, units=options.units)
            self.skip_channels = self.resnet.channels[:-1]
        self.transformer = VisionTransformer(
            self.resnet.channels[-1] if self.resnet else in_channels,
            self.bottom_channels,
            depth=options.transformer_depth,
            patch=1 if self.resnet else STRIDE,
            mlp_ratio=options.mlp_ratio,
            dropout=options.dropout,
            position_grid=options.position_grid,
        )

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the ResNet's maps (`skip_channels`), finest first, and the tokens' (B, `bottom_channels`, H/16, W/16).

        Of strides 2, 4 and 8; none without a ResNet.
        """
        if self.resnet is None:
            return [], self.transformer(x)
        *maps, last = self.resnet(x)
        return maps, self.transformer(last)


class TransUNet(HybridNetwork):
    """The wiring of TransUNet. Inner layers: `resnet`, `transformer`, `upsampler`.

    >>> import torch
    >>> options = TransUNetOptions(width=4, units=(1, 1, 1), transformer_depth=1)
    >>> TransUNet(options, in_channels=1)(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 4, 32, 48])
    """

    title = "TransUNet"

    def __init__(self, options: TransUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        patches = options.encoder == "vit"
        super().__init__(options, in_channels=in_channels, spatial_dims=spatial_dims, patches=patches)
        self.skips = options.skips
        self.feature_channels = self.bottom_channels
        self.upsampler: CascadedUpsampler | None = None
        if options.upsampler == "cascaded":
            widths = upsampler_widths(options.width)
            self.upsampler = CascadedUpsampler(self.bottom_channels, widths, self.skip_channels[::-1][: self.skips])
            self.feature_channels = widths[-1]
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the map of the encoded tokens (B, `bottom_channels`, H / 16, W / 16)."""
        maps, bottom = super().encode(x)
        return maps[len(maps) - self.skips :], bottom

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H, W) from the skips and the tokens' map."""
        if self.upsampler is None:
            return upsample(bottom, STRIDE)
        return self.upsampler(bottom, skips[::-1])


def _synapse(**options: Any) -> Published:
    return Published(in_channels=3, classes=9, size=(224, 224), options=options)


@architecture(
    "transunet",
    paper="Chen et al. 2021, arXiv:2102.04306",
    options=TransUNetOptions,
    published=_synapse(),
    also={
        "r50_vit": _synapse(skips=0),
        "vit_cup": _synapse(encoder="vit", skips=0),
        "vit": _synapse(encoder="vit", upsampler="bilinear", skips=0),
    },
    network=TransUNet,
)
class TransUNetSegmenter(SoftmaxSegmenter):
    """TransUNet with a softmax head: 3x3, or 1x1 before bilinear upsampling.

    Published loss: cross-entropy and Dice in equal parts.
    """

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    network: TransUNet

    def __init__(
        self,
        options: TransUNetOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = TransUNet(options, in_channels=in_channels, spatial_dims=spatial_dims)
        kernel = 3 if options.upsampler == "cascaded" else 1
        super().__init__(network, classes=classes, kernel=kernel, losses=losses)

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to logits (B, K, H, W); those of bare tokens are upsampled."""
        if self.network.upsampler is not None:
            return super().logits(images, variant)
        self.network.check(images)
        return upsample(self.head(self.network.encode(images)[1]), STRIDE)
