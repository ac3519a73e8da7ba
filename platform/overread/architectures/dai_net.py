"""DAI-Net (Yeganeh et al. 2023, "Transformers Pay Attention to Convolutions"): a U-Net that also sees attention maps.

The maps nu are those of a frozen DINO teacher (`attention_maps`), one per head, fixed while the network is trained.
* Dual encoder (main). E_x sees the image, E_nu the maps: four levels of two Conv3-BN-ReLU each, `width` * (1, 2, 4, 8)
  channels, without shared weights. At the bottom both are concatenated, then one decoder: a transposed convolution,
  concatenation with E_x's skip and, where the level's switch is on, with E_nu's, and two Conv3-BN-ReLU.
* Single encoder. One U-Net whose input is image and maps stacked. Beyond the paper it may be any network of the
  platform (`backbone`): each takes the maps as further channels of its input.
A 1x1 head. Loss: 0.5 cross-entropy + 0.5 Dice. Switches are written (①②③④); ① is full resolution: the text says that
the *last* skip hurts the left ventricle, and of the table's rows only 0111 has the best one.
Parameters for 1 + 6 channels and 9 classes: dual 1111 43,585,865; 0111 43,549,001; 0001 42,811,721; 0000 40,452,425;
1111 with own bottoms 55,126,345; single 31,046,345. The teacher is frozen and not counted.
The paper leaves open how the encoders meet: by default their pooled last levels are concatenated (512 + 512) before the
bottom's two convolutions, as in the same group's Y-Net (`fusion` "pooled"); "own_bottom" gives each encoder a fifth
level and concatenates those.
Its Dice (Eq. 4) is over all classes, with 1e-5 in numerator and denominator: the loss term `dice_all`; that of the
program of MT-UNet, whose protocol it follows, has squares in the denominator: `dice_squared`. It sums over the whole
batch, both terms here over each sample. Unless told, ours is `dice`, over the foreground and with 1 in place of 1e-5,
as in all networks here: with 1e-5 the term of a slice without a class is 1 for whatever is predicted, without a
gradient. The first points of the search space and the rows of `overread reproduce dainet` have the paper's, `dice_all`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, cat, nn

from overread.architectures.attention_maps import AttentionMaps, AttentionOptions
from overread.architectures.backbone import BackboneOptions
from overread.architectures.blocks import DoubleConv, initialise_he, max_pool, transposed_up
from overread.architectures.contract import EncoderDecoder, Losses, Network, Pretrained, Published, architecture
from overread.architectures.encoders import build_encoder
from overread.architectures.heads import SOFTMAX_LOSSES, SoftmaxSegmenter
from overread.errors import UserError
from overread.records import Batch, Readings, Variant

ATTENTION = "attention"
"""Name of the maps among the extras of a batch."""
LEVELS = 4
"""Levels with a skip; below them is the bottom."""


@dataclass(frozen=True, kw_only=True)
class DAINetOptions(BackboneOptions):
    """Options of DAI-Net; the defaults are the published dual encoder 1111. The backbone is that of the single form."""

    form: Literal["single", "dual"] = "dual"
    switches: tuple[bool, bool, bool, bool] = (True, True, True, True)
    """Skips of the maps' encoder, finest (①) first; of the dual form only."""
    fusion: Literal["pooled", "own_bottom"] = "pooled"
    """How the two encoders meet; of the dual form only."""
    attention: AttentionOptions = field(default_factory=AttentionOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if self.form == "dual" and (self.backbone != "unet" or self.backbone_options):
            raise UserError(
                "a backbone must go with the single form, but the dual one has encoders of its own and got "
                f"'{self.backbone}' {self.backbone_options}: choose form single"
            )


class DAINet(EncoderDecoder):
    """The wiring of the dual encoder on image and maps, stacked in this order: `in_channels` counts both.

    Inner layers: `image_encoder`, `map_encoder`, `bottom`, `ups` and `decoder` (finest first).
    """

    title = "DAI-Net"

    def __init__(self, options: DAINetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.map_channels = options.attention.vit.heads
        self.switches = options.switches
        self.size_multiple = 2**LEVELS
        self.feature_channels = options.width
        pooled = options.fusion == "pooled"
        channels = [options.width << level for level in range(LEVELS)]
        self.bottom_channels = (2 if pooled else 4) * channels[-1]
        self.image_encoder, self.map_encoder = (
            build_encoder("double_conv", in_channels=inputs, width=options.width, levels=LEVELS + (not pooled))
            for inputs in (in_channels - self.map_channels, self.map_channels)
        )
        self.bottom = DoubleConv(2, 2 * channels[-1], 2 * channels[-1]) if pooled else None
        below = [*channels[1:], self.bottom_channels]
        self.ups = nn.ModuleList(transposed_up(2, i, o) for i, o in zip(below, channels, strict=True))
        self.decoder = nn.ModuleList(
            DoubleConv(2, (2 + on) * c, c) for c, on in zip(channels, self.switches, strict=True)
        )
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, with the maps' where switched on, finest first, and the bottom (B, ., H / 16, W / 16)."""
        image, maps = torch.split(x, [self.in_channels - self.map_channels, self.map_channels], 1)
        of_image, of_maps = self.image_encoder(image), self.map_encoder(maps)
        skips = [
            cat([skip, other], 1) if on else skip
            for skip, other, on in zip(of_image, of_maps, self.switches, strict=False)
        ]
        deepest = cat([of_image[-1], of_maps[-1]], 1)
        return skips, deepest if self.bottom is None else self.bottom(max_pool(deepest))

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, width, H, W) from the skips and the bottom."""
        for skip, up, block in zip(skips[::-1], reversed(self.ups), reversed(self.decoder), strict=True):
            bottom = block(cat([up(bottom), skip], 1))
        return bottom


def build_network(options: DAINetOptions, *, in_channels: int, spatial_dims: int = 2) -> Network:
    """Build the wiring of either form on image and maps, stacked: `in_channels` counts both."""
    if options.form == "dual":
        return DAINet(options, in_channels=in_channels, spatial_dims=spatial_dims)
    return options.network(in_channels=in_channels, spatial_dims=spatial_dims)


def _published(**options: object) -> Published:
    return Published(in_channels=1, classes=9, size=(224, 224), options=options)


@architecture(
    "dai_net",
    paper="Yeganeh et al. 2023, DAI-Net",
    options=DAINetOptions,
    published=_published(),
    also={
        "dai_net_0111": _published(switches=[False, True, True, True]),
        "dai_net_0001": _published(switches=[False, False, False, True]),
        "dai_net_0000": _published(switches=[False] * LEVELS),
        "dai_net_single": _published(form="single"),
    },
)
class DAINetSegmenter(SoftmaxSegmenter):
    """DAI-Net with a softmax head and its teacher, which members carry. Needs the extra `attention`."""

    default_losses = SOFTMAX_LOSSES | {"ce": 0.5, "dice": 0.5}

    def __init__(
        self,
        options: DAINetOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        stacked = in_channels + options.attention.vit.heads
        network = build_network(options, in_channels=stacked, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.attention = AttentionMaps(options.attention)
        patch = options.attention.vit.patch
        self.needs = replace(self.needs, extras={ATTENTION: self.attention.extra}, least_side=patch)

    def pretrained(self) -> tuple[Pretrained, ...]:
        """Return the file of the teacher, if it has one."""
        return self.attention.pretrained()

    def case_inputs(self, image: Tensor) -> dict[str, Tensor]:
        """Return the attention maps (heads, D, H, W) of a whole case (C, D, H, W)."""
        return {ATTENTION: self.attention(image)}

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `ce`, `dice` (where weighted) and "loss"."""
        return super().forward(_stacked(batch), part)

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read a batch with its maps; there are no alternatives."""
        return super().read(_stacked(batch), variant=variant, anchors=anchors, generator=generator)


def _stacked(batch: Batch) -> Batch:
    """Return the batch with image and maps as its images (B, C + heads, H, W)."""
    return replace(batch, images=cat([batch.images, batch.extras[ATTENTION]], 1))
