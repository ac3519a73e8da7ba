"""ENet (Paszke, Chaurasia, Kim, Culurciello 2016, arXiv:1606.02147): a small network for speed.

Initial block: a Conv3 of stride 2 beside the 2 x 2 maximum of the image, `width` channels in all, BN, PReLU. Then
bottlenecks, Conv1 to a quarter of the channels, a middle convolution and Conv1 back, each with BN, PReLU between them,
spatial dropout after them, a residual around them and a PReLU (Table 1):

    1  down, 4 regular                                                         4 `width` channels, 1/4 of the size
    2  down, then regular, dilated 2, asymmetric 5, dilated 4,                 8 `width` channels, 1/8
       regular, dilated 8, asymmetric 5, dilated 16
    3  the eight of stage 2 again
    4  up, 2 regular                                                           4 `width` channels, 1/4
    5  up, 1 regular                                                           `width` channels, 1/2
    head: a transposed convolution 2, stride 2, to the classes

The middle is a Conv3, dilated or not, a Conv5x1 and a Conv1x5, or, going up, a transposed Conv3. Going down the first
Conv1 is a Conv2 of stride 2 and the residual is max-pooled and padded with channels of zeros; going up the residual is
a Conv1-BN, unpooled to the places of the maxima of the stage of the same size.

Parameters for 3 channels and the 12 classes of CamVid: 364,192, for 2 classes: 363,542; the paper says 0.37M.
As in the released code the middle convolutions have a bias, and the inner channels are a quarter of the *outputs*. As
in the paper, not in the code, the decoder too has PReLUs and dropout.
Differs from the paper: an image of more than `width` / 2 channels still gets `width` / 2 of convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import convolution, initialise_he, max_pool, normalisation, transposed_up, upsample
from overread.architectures.contract import Features, Network, Published, architecture
from overread.architectures.heads import SoftmaxSegmenter, start_from_prior
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant

CONTEXT = ("regular", "dilated 2", "asymmetric 5", "dilated 4", "regular", "dilated 8", "asymmetric 5", "dilated 16")
"""Bottlenecks of the stages 2 and 3."""
EARLY = 0.1
"""Dropout of stage 1 / that of the later ones."""


@dataclass(frozen=True, kw_only=True)
class ENetOptions(JsonRecord):
    """Options of ENet; the defaults are the published setting."""

    width: int = 16
    """Channels of the initial block, at half the resolution; the stages have 4, 8, 8, 4 and 1 times as many."""
    dropout: float = 0.1
    """Probability for whole channels in the stages 2 to 5; a tenth of it in stage 1."""

    def __post_init__(self) -> None:
        if self.width < 4:
            raise UserError(f"width must be at least 4, but got {self.width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), but got {self.dropout}")


def middle_convolution(kind: str, channels: int) -> nn.Module:
    """Return the middle of a bottleneck: `regular`, `dilated <rate>`, `asymmetric <length>` or `transposed`."""
    name, _, number = kind.partition(" ")
    if name == "transposed":
        return nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)
    if name == "asymmetric":
        length, margin = int(number), int(number) // 2
        return nn.Sequential(
            nn.Conv2d(channels, channels, (length, 1), padding=(margin, 0), bias=False),
            nn.Conv2d(channels, channels, (1, length), padding=(0, margin)),
        )
    return convolution(2, channels, channels, dilation=int(number or 1))


def extension(inputs: int, outputs: int, dropout: float, kind: str = "regular", *, first: int = 1) -> nn.Sequential:
    """Return what a bottleneck adds to its residual; `first` is kernel and stride of the first convolution."""
    inner = outputs // 4
    return nn.Sequential(
        convolution(2, inputs, inner, kernel=first, stride=first, bias=False),
        normalisation("batch", 2, inner),
        nn.PReLU(inner),
        middle_convolution(kind, inner),
        normalisation("batch", 2, inner),
        nn.PReLU(inner),
        convolution(2, inner, outputs, kernel=1, bias=False),
        normalisation("batch", 2, outputs),
        nn.Dropout2d(dropout),
    )


class Bottleneck(nn.Module):
    """A bottleneck that keeps size and channels."""

    def __init__(self, channels: int, dropout: float, kind: str) -> None:
        super().__init__()
        self.extension = extension(channels, channels, dropout, kind)
        self.activation = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.activation(x + self.extension(x))


class Down(nn.Module):
    """A bottleneck that halves the size and adds channels (none to an image that has more: the residual drops some)."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.extension = extension(inputs, outputs, dropout, first=2)
        self.activation = nn.PReLU(outputs)
        self.added = outputs - inputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, inputs, H, W) to (B, outputs, H / 2, W / 2), and say where the maxima (B, inputs, ...) were."""
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        return self.activation(F.pad(pooled, (0, 0, 0, 0, 0, self.added)) + self.extension(x)), places


class Up(nn.Module):
    """A bottleneck that doubles the size and removes channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.extension = extension(inputs, outputs, dropout, "transposed")
        self.main = nn.Sequential(
            convolution(2, inputs, outputs, kernel=1, bias=False), normalisation("batch", 2, outputs)
        )
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, 2 H, 2 W), with the residual at the `places` (B, outputs, H, W)."""
        return self.activation(F.max_unpool2d(self.main(x), places, [2, 2]) + self.extension(x))


class ENet(Network):
    """The wiring of ENet. Inner layers: `initial`, `down1`, `stage1`, ..., `up5`, `stage5`.

    >>> import torch
    >>> ENet(ENetOptions(width=4), in_channels=1)(torch.zeros(2, 1, 16, 32)).shape
    torch.Size([2, 4, 16, 32])
    """

    title = "ENet"
    size_multiple = 8

    def __init__(self, options: ENetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        width, dropout = options.width, options.dropout
        convolved = max(width - in_channels, (width + 1) // 2)
        self.feature_channels = convolved + in_channels
        self.initial = convolution(2, in_channels, convolved, stride=2)
        self.initial_activation = nn.Sequential(
            normalisation("batch", 2, self.feature_channels), nn.PReLU(self.feature_channels)
        )

        def stage(channels: int, *kinds: str, dropout: float = dropout) -> nn.Sequential:
            return nn.Sequential(*(Bottleneck(channels, dropout, kind) for kind in kinds))

        self.down1 = Down(self.feature_channels, 4 * width, EARLY * dropout)
        self.stage1 = stage(4 * width, *["regular"] * 4, dropout=EARLY * dropout)
        self.down2 = Down(4 * width, 8 * width, dropout)
        self.stage2 = stage(8 * width, *CONTEXT)
        self.stage3 = stage(8 * width, *CONTEXT)
        self.up4 = Up(8 * width, 4 * width, dropout)
        self.stage4 = stage(4 * width, "regular", "regular")
        self.up5 = Up(4 * width, self.feature_channels, dropout)
        self.stage5 = stage(self.feature_channels, "regular")
        initialise_he(self)

    def coarse(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the last map (B, F, H / 2, W / 2)."""
        self.check(x)
        x = self.initial_activation(cat([self.initial(x), max_pool(x)], 1))
        x, first = self.down1(x)
        x, second = self.down2(self.stage1(x))
        x = self.stage3(self.stage2(x))
        x = self.stage4(self.up4(x, second))
        return self.stage5(self.up5(x, first))

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to the upsampled last map (B, F, H, W), for heads that are not ENet's own."""
        return Features(upsample(self.coarse(x)))


@architecture(
    "enet",
    paper="Paszke et al. 2016, arXiv:1606.02147",
    options=ENetOptions,
    published=Published(in_channels=3, classes=12, size=(360, 480)),
    network=ENet,
)
class ENetSegmenter(SoftmaxSegmenter):
    """ENet with its head, a transposed convolution. Published loss: cross-entropy (there with weights per class)."""

    network: ENet

    def __init__(
        self,
        options: ENetOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = ENet(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.head = start_from_prior(transposed_up(2, network.feature_channels, classes), classes)

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, H, W) to logits (B, K, H, W)."""
        return self.head(self.network.coarse(images))
