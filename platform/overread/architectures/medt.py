"""MedT, Medical Transformer (Valanarasu, Oza, Hacihaliloglu, Patel 2021, arXiv:2102.10662): gated axial attention.

Two branches see the image: a global one all of it, a shallow one of two stages, and a local one of four stages each of
its 4 x 4 patches alone ("LoGo"). Both are U-Nets: a stem of three convolutions (stride 2), stages of axial blocks with
`width` * (1, 2, 4, 8) channels (each gives twice as many and, from the second on, halves the sides), and a decoder of
Conv3, bilinear x2, ReLU and *added* skips. The sum of the branches and one Conv3-ReLU is the last map.
An axial block is a bottleneck (He 2016) that attends along the height and then along the width. In the global branch
the attention has gated relative positions r (section 3.2 of the paper):
    y_i = sum_j softmax_j(q_i k_j + G_Q q_i r^q_{j-i} + G_K k_j r^k_{j-i}) (G_V1 v_j + G_V2 r^v_{j-i}),
in the local branch it has none. As in the released code each of the terms goes through a BatchNorm before it is summed
(so that in training a gate's scale is normalised away but for epsilon), and queries are not scaled.
`width` is the 128 s of the released code, whose s = 0.125: 16 channels in the first stage and in the last map.

Parameters: 1,524,570 for 3 channels, 2 classes and 128 x 128 images. The released code has 1,560,140: it declares a 1x1
convolution in every local block (35,536) and a second head (34) that its forward pass never uses; all else is equal.
Its global stem has `width` / 2 channels and its local stem 4 `width`, a side effect of how it counts, kept here.
Differs from the code: patches are a part of the batch, where it runs one patch position after the other (each with its
own batch statistics in training); their side is H/4, not 32; relative positions are interpolated to other sizes, along
each axis for itself; gates learn from the first step or, by `frozen_gates`, never (the code frees them after 10
epochs); the deepest map of a patch may have an odd side; convolutions start as in He 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.blocks import convolution, initialise_he
from overread.architectures.contract import Features, Network, Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.unetmer import from_patches, to_patches
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Variant

GATES = (0.1, 0.1, 0.1, 1.0)
"""G_Q, G_K, G_V2 (the positions' part of the values) and G_V1 before training."""


@dataclass(frozen=True, kw_only=True)
class MedTOptions(JsonRecord):
    """Options of MedT; the defaults are the published setting."""

    width: int = 16
    """Channels of the first stage and of the last map (128 s); every other layer scales with it."""
    blocks: tuple[int, int, int, int] = (1, 2, 4, 1)
    """Blocks of the four stages; the global branch has the first two."""
    groups: int = 8
    """Heads of the attention; the width must be a multiple of twice as many (queries have half the channels)."""
    patches: int = 4
    """The local branch sees patches x patches patches; spatial sizes must be multiples of 16 times as many."""
    position_side: int = 128
    """Side of the images for which relative positions are learned; interpolated for others."""
    frozen_gates: bool = False
    """Whether the gates keep their first values."""

    def __post_init__(self) -> None:
        for name, value in {"width": self.width, "groups": self.groups, "patches": self.patches}.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, but got {value}")
        if min(self.blocks) < 1:
            raise UserError(f"blocks must be at least 1 in every stage, but got {list(self.blocks)}")
        if self.width % (2 * self.groups):
            raise UserError(f"width must be a multiple of 2 * groups, but got {self.width} and {self.groups} groups")
        if self.position_side < 4 or self.position_side % 4:
            raise UserError(f"position_side must be a positive multiple of 4, but got {self.position_side}")


class RelativePositions(nn.Module):
    """Learned vectors for the offsets -(side - 1) .. side - 1 along an axis: of queries, keys and values.

    Another length stretches the offsets linearly: its largest one has the vector of the largest one learned.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.channels = channels
        self.offsets = nn.Parameter(torch.randn(1, 2 * channels, 2 * side - 1) * channels**-0.5)

    def forward(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return r^q, r^k (channels / 2, length, length) and r^v (channels, length, length), indexed by i, j."""
        table: Tensor = self.offsets
        if table.shape[2] != 2 * length - 1:
            table = F.interpolate(table, size=2 * length - 1, mode="linear", align_corners=True)
        half = self.channels // 2
        pairs = table[0].unfold(1, length, 1).flip(1)  # row i starts at offset -i
        return pairs[:half], pairs[half : 2 * half], pairs[2 * half :]


class AxialAttention(nn.Module):
    """Multi-head self-attention along one spatial axis; with `side`, the length of the axis, gated positions."""

    def __init__(self, options: MedTOptions, channels: int, *, axis: int, side: int | None) -> None:
        super().__init__()
        self.axis, self.groups, self.head = axis, options.groups, channels // options.groups
        self.qkv = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        self.qkv_norm = nn.BatchNorm1d(2 * channels)
        self.score_norm = nn.BatchNorm2d(self.groups if side is None else 3 * self.groups)
        self.value_norm = nn.BatchNorm1d(channels if side is None else 2 * channels)
        self.positions = None if side is None else RelativePositions(self.head, side)
        if side is not None and options.frozen_gates:
            self.register_buffer("gates", torch.tensor(GATES))
        elif side is not None:
            self.gates = nn.Parameter(torch.tensor(GATES))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        lines = x.movedim(self.axis, 3).transpose(1, 2)  # (B, M, C, n): M lines of n pixels
        batch, count = lines.shape[:2]
        qkv = self.qkv_norm(self.qkv(lines.flatten(0, 1))).unflatten(1, (self.groups, -1))
        half = self.head // 2
        q, k, v = qkv.split([half, half, self.head], 2)
        scores = [torch.einsum("lgci,lgcj->lgij", q, k)]
        if self.positions is None:
            attention = self._sum(self.score_norm, scores).softmax(3)
            values = [torch.einsum("lgij,lgcj->lgci", attention, v)]
        else:
            r_q, r_k, r_v = self.positions(lines.shape[3])
            gate_q, gate_k, gate_r, gate_v = self.gates.unbind()
            scores.append(gate_q * torch.einsum("lgci,cij->lgij", q, r_q))
            scores.append(gate_k * torch.einsum("lgcj,cij->lgij", k, r_k))
            attention = self._sum(self.score_norm, scores).softmax(3)
            values = [gate_v * torch.einsum("lgij,lgcj->lgci", attention, v)]
            values.append(gate_r * torch.einsum("lgij,cij->lgci", attention, r_v))
        mixed = self._sum(self.value_norm, [value.flatten(1, 2) for value in values])
        return mixed.reshape(batch, count, *mixed.shape[1:]).transpose(1, 2).movedim(3, self.axis)

    @staticmethod
    def _sum(norm: nn.Module, terms: list[Tensor]) -> Tensor:
        """Return the sum of terms of the same shape (L, C, ...), each normalised by its channels."""
        normed: Tensor = norm(torch.cat(terms, 1))
        return normed.reshape(len(normed), len(terms), -1, *normed.shape[2:]).sum(1)


class AxialBlock(nn.Module):
    """Bottleneck with a residual: 1x1 to `channels`, attention along height and width, 1x1 to twice as many."""

    def __init__(self, options: MedTOptions, inputs: int, channels: int, *, stride: int, side: int | None) -> None:
        super().__init__()
        self.stride = stride
        self.reduce = nn.Sequential(*_conv_norm(inputs, channels, 1), nn.ReLU())
        self.height = AxialAttention(options, channels, axis=2, side=side)
        self.width = AxialAttention(options, channels, axis=3, side=side)
        self.expand = nn.Sequential(*_conv_norm(channels, 2 * channels, 1))
        same = stride == 1 and inputs == 2 * channels
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(inputs, 2 * channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 2 channels, H / stride, W / stride)."""
        attended = self.width(self.height(self.reduce(x)))
        if self.stride > 1:
            attended = F.avg_pool2d(attended, self.stride)
        return F.relu(self.expand(F.relu(attended)) + self.shortcut(x))


class AxialUNet(nn.Module):
    """One branch: stem, stages of axial blocks, decoder with added skips.

    `side` of its images gives it relative positions; `bottom` is one more convolution down and up again.
    """

    def __init__(
        self, options: MedTOptions, in_channels: int, stem: int, *, stages: int, side: int | None, bottom: bool
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_norm(in_channels, stem, 7, 2),
            nn.ReLU(),
            *_conv_norm(stem, 8 * options.width, 3),
            nn.ReLU(),
            *_conv_norm(8 * options.width, stem, 3),
            nn.ReLU(),
        )
        outputs = [2 * options.width << level for level in range(stages)]
        self.stages = nn.ModuleList()
        side = side and side // 2
        for level, (inputs, channels) in enumerate(zip([stem, *outputs], outputs, strict=False)):
            stride = 2 if level else 1
            stage = nn.Sequential(AxialBlock(options, inputs, channels // 2, stride=stride, side=side))
            side = side and side // stride
            for _ in range(1, options.blocks[level]):
                stage.append(AxialBlock(options, channels, channels // 2, stride=1, side=side))
            self.stages.append(stage)
        self.bottom = nn.Conv2d(outputs[-1], outputs[-1], 3, stride=2, padding=1) if bottom else None
        self.decoder = nn.ModuleList(convolution(2, channels, channels // 2) for channels in outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, width, H, W)."""
        y, skips = self.stem(x), []
        for stage in self.stages:
            y = stage(y)
            skips.append(y)
        if self.bottom is not None:
            y = _enlarge(self.bottom(y), y) + y
        for skip, up in zip(skips[-2::-1], reversed(self.decoder), strict=False):
            y = _enlarge(up(y), skip) + skip
        return _enlarge(self.decoder[0](y), x)


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Return ReLU of `x`, bilinear at the size of `like`."""
    return F.relu(F.interpolate(x, size=like.shape[2:], mode="bilinear"))


class MedT(Network):
    """The wiring of MedT. Inner layers: `whole` (global branch), `local`, `fuse`.

    >>> MedT(MedTOptions(width=4, groups=2), in_channels=1)(torch.zeros(1, 1, 64, 128)).shape
    torch.Size([1, 4, 64, 128])
    """

    title = "MedT"

    def __init__(self, options: MedTOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.feature_channels = options.width
        self.patches = options.patches
        self.size_multiple = 16 * options.patches
        self.whole = AxialUNet(
            options, in_channels, options.width // 2, stages=2, side=options.position_side, bottom=False
        )
        self.local = AxialUNet(options, in_channels, 4 * options.width, stages=4, side=None, bottom=True)
        self.fuse = convolution(2, options.width, options.width)
        initialise_he(self)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to (B, width, H, W)."""
        self.check(x)
        local = from_patches(self.local(to_patches(x, self.patches)), self.patches)
        return Features(F.relu(self.fuse(self.whole(x) + local)))


@architecture(
    "medt",
    paper="Valanarasu et al. 2021, arXiv:2102.10662",
    options=MedTOptions,
    published=Published(in_channels=3, classes=2, size=(128, 128)),
    network=MedT,
)
class MedTSegmenter(PlainSegmenter):
    """MedT with a softmax head. Published loss: cross-entropy."""

    network_class = MedT
