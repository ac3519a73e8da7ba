"""Swin-Unet (Cao et al. 2021, arXiv:2105.05537): a U-Net of shifted-window Transformer blocks without convolutions.

Patches of 4 x 4 pixels become tokens of `width` channels. Four stages of Transformer blocks whose attention is within
windows of 7 x 7 tokens, shifted by 3 in every second block, with a learned bias for relative positions (`windows`).
Between stages patch merging: the tokens of 2 x 2 places are concatenated, normalised and projected to twice the
channels. Up again by patch expanding: a linear layer to twice the channels that become 2 x 2 places of half of the
channels, and a norm; then concatenation with the skip, a linear layer to one half, and a stage of blocks. At the end
the expansion is by 4 and keeps the channels. Heads have 32 channels. A 1x1 head.
27,168,909 parameters for 3 channels and 9 classes; the released code has 27,168,900, for its head has no bias.
Differs from the code: skips are the maps after the blocks of a stage, as in the paper's Fig. 1 (there before them);
windows pad sides that they do not divide, so that all multiples of 32 will do; no stochastic depth; weights start at
random, where the paper starts from a Swin-T of ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, cat, nn

from overread.architectures.contract import EncoderDecoder, Published, architecture
from overread.architectures.heads import SOFTMAX_LOSSES, PlainSegmenter
from overread.architectures.transformer import Block, heads_of, initialise_linear
from overread.architectures.windows import WindowAttention, from_windows, to_windows
from overread.errors import UserError
from overread.jsonio import JsonRecord

PATCH = 4
"""Side of a patch in pixels."""
HEAD_WIDTH = 32
"""Channels of an attention head, where the tokens' are a multiple of it."""


@dataclass(frozen=True, kw_only=True)
class SwinUNetOptions(JsonRecord):
    """Options of Swin-Unet; the defaults are the published tiny one."""

    width: int = 96
    """Channels of the finest tokens, doubled per stage, and of the last map."""
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Blocks of the stages, finest first; the decoder has those of the first three again."""
    window: int = 7
    """Side of a window in tokens."""
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UserError(f"width must be even and at least 2, but got {self.width}")
        if min(self.depths) < 1:
            raise UserError(f"depths must be at least 1 in every stage, but got {list(self.depths)}")
        if self.window < 2:
            raise UserError(f"window must be at least 2, but got {self.window}")
        if self.mlp_ratio < 1:
            raise UserError(f"mlp_ratio must be at least 1, but got {self.mlp_ratio}")


class Stage(nn.Sequential):
    """Transformer blocks on (B, H, W, d), the windows of every second one shifted by half."""

    def __init__(self, width: int, depth: int, window: int, mlp_ratio: int = 4) -> None:
        heads = heads_of(width, HEAD_WIDTH)
        shifts = [window // 2 * (index % 2) for index in range(depth)]
        super().__init__(
            *(
                Block(width, heads, mlp_ratio, attention=WindowAttention(width, heads, window, shift=shift))
                for shift in shifts
            )
        )


class PatchMerging(nn.Module):
    """(B, H, W, d) to (B, H / 2, W / 2, 2 d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.project = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the tokens of 2 x 2 places, normalise and project them."""
        places = to_windows(x, (2, 2)).flatten(2)
        return self.project(self.norm(places)).unflatten(1, (x.shape[1] // 2, x.shape[2] // 2))


class PatchExpanding(nn.Module):
    """(B, H, W, d) to (B, H * factor, W * factor, outputs)."""

    def __init__(self, width: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = nn.Linear(width, factor**2 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Project each token to those of factor x factor places, and normalise them."""
        factor, (height, width) = self.factor, x.shape[1:3]
        places = self.project(x).flatten(1, 2).unflatten(2, (factor**2, -1))
        return self.norm(from_windows(places, (factor, factor), (height * factor, width * factor)))


class SwinUNet(EncoderDecoder):
    """The wiring of Swin-Unet. Inner layers: `encoder`, `merging`; `expanding`, `reduce`, `decoder`, finest first.

    >>> import torch
    >>> SwinUNet(SwinUNetOptions(width=4), in_channels=1)(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 4, 32, 64])
    """

    title = "Swin-Unet"

    def __init__(self, options: SwinUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        channels = [options.width << stage for stage in range(len(options.depths))]
        self.size_multiple = PATCH << (len(channels) - 1)
        self.feature_channels, self.bottom_channels = channels[0], channels[-1]
        self.embedding = nn.Conv2d(in_channels, channels[0], PATCH, stride=PATCH)
        self.embedding_norm = nn.LayerNorm(channels[0])

        def stages(number: int) -> nn.ModuleList:
            drawn = zip(channels[:number], options.depths, strict=False)
            return nn.ModuleList(Stage(width, depth, options.window, options.mlp_ratio) for width, depth in drawn)

        finer = channels[:-1]
        self.encoder = stages(len(channels))
        self.merging = nn.ModuleList(PatchMerging(width) for width in finer)
        self.bottom_norm = nn.LayerNorm(channels[-1])
        self.expanding = nn.ModuleList(PatchExpanding(2 * width, width, factor=2) for width in finer)
        self.reduce = nn.ModuleList(nn.Linear(2 * width, width) for width in finer)
        self.decoder = stages(len(finer))
        self.last_norm = nn.LayerNorm(channels[0])
        self.last = PatchExpanding(channels[0], channels[0], factor=PATCH)
        initialise_linear(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps of strides 4, 8 and 16 and the deepest (B, `bottom_channels`, H / 32, W / 32)."""
        x = self.embedding_norm(self.embedding(x).permute(0, 2, 3, 1))
        skips: list[Tensor] = []
        for stage, merge in zip(self.encoder, self.merging, strict=False):
            skips.append(stage(x))
            x = merge(skips[-1])
        bottom = self.bottom_norm(self.encoder[-1](x))
        return [skip.permute(0, 3, 1, 2) for skip in skips], bottom.permute(0, 3, 1, 2)

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, H, W) from the skips and the deepest map."""
        x = bottom.permute(0, 2, 3, 1)
        for level in reversed(range(len(skips))):
            joined = cat([self.expanding[level](x), skips[level].permute(0, 2, 3, 1)], -1)
            x = self.decoder[level](self.reduce[level](joined))
        return self.last(self.last_norm(x)).permute(0, 3, 1, 2)


@architecture(
    "swin_unet",
    paper="Cao et al. 2021, arXiv:2105.05537",
    options=SwinUNetOptions,
    published=Published(in_channels=3, classes=9, size=(224, 224)),
    network=SwinUNet,
)
class SwinUNetSegmenter(PlainSegmenter):
    """Swin-Unet with a softmax head. Published loss: 0.4 cross-entropy and 0.6 Dice."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.4, "dice": 0.6}

    network_class = SwinUNet
