"""Encoders by name: the contracting halves that several networks of several papers stand on.

- `double_conv`: U-Net (Ronneberger et al. 2015, arXiv:1505.04597): a DoubleConv per level, max-pooling between them.
- `v_net`: V-Net (Milletari et al. 2016, arXiv:1606.04797) as the 3-D networks of UNet# use it: residual Conv5 stages.
- `vgg16`: VGG16 with batch norm (Simonyan, Zisserman 2015, arXiv:1409.1556, configuration D), without its classifier.
- `resnet18`, `resnet50`, `resnet101`: ResNet (He et al. 2016, arXiv:1512.03385), without its classifier; a bottleneck
  strides in its Conv3, as in torchvision. With an `output_stride` the last stages dilate instead of striding.

VGG16 and the ResNets are 2-D and name their layers as torchvision does: at width 64 and 3 input channels a usual
ImageNet state dict fits (`EncoderWeights`): the keys of its classifier and of levels that are not built are left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import DoubleConv, convolution, initialise_he, max_pool, normalisation
from overread.architectures.contract import Pretrained
from overread.errors import UserError, unknown_name
from overread.jsonio import JsonRecord

EncoderName = Literal["double_conv", "v_net", "vgg16", "resnet18", "resnet50", "resnet101"]
"""What `build_encoder` knows, as the type of an option."""
LOADABLE = ("vgg16", "resnet18", "resnet50", "resnet101")
"""Encoders for which others publish weights, at a width of 64."""


@dataclass(frozen=True, kw_only=True)
class EncoderWeights(JsonRecord):
    """A local file of weights that a VGG16 (batch norm) or ResNet starts from, with torchvision's names: ImageNet's."""

    path: str
    """`.safetensors`, or PyTorch's own, read without running code."""
    sha256: str
    """SHA-256 (hex) that the file must have."""

    def of(self, encoder: Encoder) -> Pretrained:
        """Return what training loads: levels that are not built, and the classifier, stay in the file.

        The first convolution is fitted to other numbers of channels than three.
        """
        return Pretrained(encoder, self.path, self.sha256, ignore=encoder.not_built, any_channels=True)


def check_weights_file(weights: EncoderWeights | None, encoder: str) -> None:
    """Raise `UserError` if weights are given for an encoder that nobody else trains."""
    if weights is not None and encoder not in LOADABLE:
        raise UserError(
            f"encoder_weights must be for one of {', '.join(LOADABLE)}, but the encoder is '{encoder}': "
            "choose another encoder or leave them out"
        )


class Encoder(nn.Module, ABC):
    """An image in, maps of falling resolution out. Only what the maps need is built."""

    spatial_dims: int
    channels: tuple[int, ...]
    """Of the maps, finest first."""
    strides: tuple[int, ...]
    """Image size / map size, finest first."""

    @property
    def not_built(self) -> tuple[str, ...]:
        """Beginnings of names in the files of `LOADABLE` encoders that have no place here."""
        return ()

    @property
    def size_multiple(self) -> int:
        """What the spatial sizes of an image must be multiples of."""
        return self.strides[-1]

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, *S) to the maps (B, channels[i], *S / strides[i]), finest first."""


class DoubleConvEncoder(Encoder):
    """The encoder of U-Net: level i is a DoubleConv to `width` * 2^i channels, after a max-pooling but for the first.

    >>> import torch
    >>> maps = DoubleConvEncoder(in_channels=3, width=4, levels=3)(torch.zeros(1, 3, 8, 12))
    >>> [tuple(x.shape) for x in maps]
    [(1, 4, 8, 12), (1, 8, 4, 6), (1, 16, 2, 3)]
    """

    def __init__(self, *, in_channels: int, width: int, levels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.channels = tuple(width << level for level in range(levels))
        self.strides = tuple(1 << level for level in range(levels))
        inputs = (in_channels, *self.channels[:-1])
        self.blocks = nn.ModuleList(DoubleConv(spatial_dims, i, o) for i, o in zip(inputs, self.channels, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, *S) to one map per level."""
        maps: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            x = block(max_pool(x) if level else x)
            maps.append(x)
        return maps


V_NET_UNITS = (1, 2, 3, 2)
"""Conv5 units of the levels below the first."""


class VNetStage(nn.Module):
    """Conv2 of stride 2, BN, PReLU; then Conv5-BN-PReLU units with a residual around them, and a PReLU."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, units: int) -> None:
        super().__init__()
        self.down = self._unit(spatial_dims, inputs, outputs, kernel=2)
        self.units = nn.Sequential(*(self._unit(spatial_dims, outputs, outputs, kernel=5) for _ in range(units)))
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *S) to (B, outputs, *S / 2)."""
        x = self.down(x)
        return self.activation(self.units(x) + x)

    @staticmethod
    def _unit(spatial_dims: int, inputs: int, outputs: int, kernel: int) -> nn.Sequential:
        return nn.Sequential(
            convolution(spatial_dims, inputs, outputs, kernel, stride=2 if kernel == 2 else 1),
            normalisation("batch", spatial_dims, outputs),
            nn.PReLU(outputs),
        )


class VNetEncoder(Encoder):
    """The encoder of V-Net, `width` * 2^i channels, as the parameter counts of UNet#'s 3-D networks say it is.

    Level 0 is a Conv5 and a BN; the image, broadcast over the channels, is added before the PReLU. An image of several
    channels adds their mean, which for one channel is the published sum.
    """

    def __init__(self, *, in_channels: int, width: int, levels: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.channels = tuple(width << level for level in range(levels))
        self.strides = tuple(1 << level for level in range(levels))
        self.stem = nn.Sequential(
            convolution(spatial_dims, in_channels, width, kernel=5), normalisation("batch", spatial_dims, width)
        )
        self.activation = nn.PReLU(width)
        steps = zip(self.channels[:-1], self.channels[1:], V_NET_UNITS, strict=False)  # fewer levels: fewer stages
        self.stages = nn.ModuleList(VNetStage(spatial_dims, i, o, units) for i, o, units in steps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, *S) to one map per level."""
        maps = [self.activation(self.stem(x) + x.mean(1, keepdim=True))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


VGG16_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels / width and convolutions of each stage of VGG16."""


class VGGEncoder(Encoder):
    """The convolutions of VGG16 with batch norm; the maps are those before each max-pooling."""

    spatial_dims = 2

    def __init__(self, *, in_channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.channels = tuple(width * factor for factor, _ in VGG16_STAGES[:levels])
        self.strides = tuple(1 << level for level in range(levels))
        layers: list[nn.Module] = []
        inputs = in_channels
        for level, (outputs, (_, convolutions)) in enumerate(zip(self.channels, VGG16_STAGES, strict=False)):
            if level:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [convolution(2, inputs, outputs), normalisation("batch", 2, outputs), nn.ReLU(inplace=True)]
                inputs = outputs
        self.features = nn.Sequential(*layers)

    @property
    def not_built(self) -> tuple[str, ...]:
        """The classifier and deeper layers than the last."""
        every = sum(3 * convolutions + 1 for _, convolutions in VGG16_STAGES)
        return ("classifier.", *(f"features.{layer}." for layer in range(len(self.features), every)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, H, W) to one map per level."""
        maps: list[Tensor] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return [*maps, x]


class BasicBlock(nn.Module):
    """Two Conv3-BN around a residual (He et al. 2016, Fig. 5 left). Layers are named as in torchvision."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = convolution(2, inputs, channels, stride=stride, dilation=dilation, bias=False)
        self.bn1 = normalisation("batch", 2, channels)
        self.conv2 = convolution(2, channels, channels, dilation=dilation, bias=False)
        self.bn2 = normalisation("batch", 2, channels)
        self.downsample = _shortcut(inputs, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, channels, H / stride, W / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + (self.downsample(x) if self.downsample else x), inplace=True)


class Bottleneck(nn.Module):
    """Conv1, Conv3 and Conv1 to four times the channels, around a residual (He et al. 2016, Fig. 5 right)."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = convolution(2, inputs, channels, kernel=1, bias=False)
        self.bn1 = normalisation("batch", 2, channels)
        self.conv2 = convolution(2, channels, channels, stride=stride, dilation=dilation, bias=False)
        self.bn2 = normalisation("batch", 2, channels)
        self.conv3 = convolution(2, channels, channels * self.expansion, kernel=1, bias=False)
        self.bn3 = normalisation("batch", 2, channels * self.expansion)
        self.downsample = _shortcut(inputs, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return F.relu(self.bn3(self.conv3(inner)) + (self.downsample(x) if self.downsample else x), inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the projection of a residual whose ends differ, else None: it is the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        convolution(2, inputs, outputs, kernel=1, stride=stride, bias=False), normalisation("batch", 2, outputs)
    )


Block = type[BasicBlock] | type[Bottleneck]
RESNETS: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Block and number of blocks in each of the four stages."""


class ResNetEncoder(Encoder):
    """The convolutions of a ResNet; the maps are those after the stem's ReLU and after each of the four stages.

    `width` channels in the stem, `width` * (1, 2, 4, 8) * expansion after the stages. A stage that would exceed
    `output_stride` keeps its resolution and dilates by what it does not stride: its first block as the stage before.
    """

    spatial_dims = 2

    def __init__(
        self,
        *,
        in_channels: int,
        width: int,
        levels: int,
        block: Block = Bottleneck,
        blocks: tuple[int, ...] = (3, 4, 6, 3),
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = normalisation("batch", 2, width)
        channels, strides, dilation = [width], [2], 1
        self.stages: list[str] = []
        for stage, repeats in enumerate(blocks[: levels - 1]):
            wanted = 2 if stage else 1  # the max-pooling strides before the first stage
            stride = wanted if 4 << stage <= output_stride else 1
            first, dilation = dilation, dilation * wanted // stride
            inner, outputs = width << stage, (width << stage) * block.expansion
            layers = [block(channels[-1], inner, stride, first)]
            layers += [block(outputs, inner, 1, dilation) for _ in range(repeats - 1)]
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*layers))
            channels.append(outputs)
            strides.append(min(4 << stage, output_stride))
        self.channels, self.strides = tuple(channels), tuple(strides)

    @property
    def not_built(self) -> tuple[str, ...]:
        """The classifier and deeper stages than the last."""
        return ("fc.", *(f"layer{stage + 1}." for stage in range(len(self.stages), 4)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, in_channels, H, W) to one map per level."""
        maps = [F.relu(self.bn1(self.conv1(x)), inplace=True)]
        for stage in self.stages:
            x = maps[-1] if len(maps) > 1 else F.max_pool2d(maps[0], 3, stride=2, padding=1)
            maps.append(self.get_submodule(stage)(x))
        return maps


MOST_LEVELS = 5
"""Levels that V-Net, VGG16 and the ResNets have."""


def build_encoder(
    name: str, *, in_channels: int, width: int, levels: int, spatial_dims: int = 2, output_stride: int | None = None
) -> Encoder:
    """Build an encoder of `levels` maps, its convolutions drawn as in He 2015; wrong settings raise `UserError`.

    `width` is the channels of the first map, `output_stride` (8, 16 or 32; ResNets only) the largest stride.
    """
    if name not in get_args(EncoderName):
        raise unknown_name("encoder", name, get_args(EncoderName))
    if width < 1:
        raise UserError(f"width must be at least 1, but got {width}")
    if levels < 1 or (levels > MOST_LEVELS and name != "double_conv"):
        raise UserError(f"levels of encoder '{name}' must be at least 1 and at most {MOST_LEVELS}, but got {levels}")
    if spatial_dims != 2 and name not in ("double_conv", "v_net"):
        raise UserError(f"spatial_dims of encoder '{name}' must be 2, but got {spatial_dims}: choose v_net for volumes")
    if output_stride is not None and (name not in RESNETS or output_stride not in (8, 16, 32)):
        raise UserError(
            f"output_stride must be 8, 16 or 32 and the encoder a ResNet, but got {output_stride}, '{name}'"
        )
    sizes = {"in_channels": in_channels, "width": width, "levels": levels}
    encoder: Encoder
    if name in RESNETS:
        block, blocks = RESNETS[name]
        encoder = ResNetEncoder(**sizes, block=block, blocks=blocks, output_stride=output_stride or 32)
    elif name == "vgg16":
        encoder = VGGEncoder(**sizes)
    else:
        encoder = (VNetEncoder if name == "v_net" else DoubleConvEncoder)(**sizes, spatial_dims=spatial_dims)
    initialise_he(encoder)
    return encoder
