"""U-Net++ (Zhou et al. 2018, arXiv:1807.10165): a U-Net whose skips are nested dense nodes, 2-D and 3-D.

Nodes X^{i,j}, level i (0 = full resolution), column j, i + j < depth, two Conv3-BN-ReLU to `width` * 2^i channels each.
X^{i,0} is the encoder; for j >= 1 X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, u(X^{i+1,j-1})]) (Eq. 1), u = linear x2 without
parameters. The last map is X^{0,depth-1}. As two halves, column 0 encodes and all nested nodes decode.
Differs from the paper: 64..1024 channels (36.63M, the backbone of U-Netmer++) instead of 32..512; no deep supervision
and so no pruning; zero padding and BatchNorm throughout; the same layers in 3-D.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overread.architectures.blocks import DoubleConv, initialise_he, upsample
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class UNetPlusPlusOptions(JsonRecord):
    """Options of U-Net++; the defaults are the 64..1024 channels of U-Netmer++."""

    width: int = 64
    """Channels at full resolution; doubled per level."""
    depth: int = 5
    """Resolution levels and columns; spatial sizes must be multiples of 2^(depth - 1)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        check_depth(self.depth)


class UNetPlusPlus(UShaped):
    """The wiring of U-Net++. Inner layers: `encoder` (column 0, finest first) and `nested.x<i><j>`.

    >>> UNetPlusPlus(UNetPlusPlusOptions(width=4, depth=3), in_channels=1)(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "U-Net++"

    def __init__(self, options: UNetPlusPlusOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        channels = doubled(options.width, options.depth)
        super().__init__(channels, in_channels=in_channels, spatial_dims=spatial_dims)
        self.depth = options.depth
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(DoubleConv(spatial_dims, i, o) for i, o in zip(inputs, channels, strict=True))
        self.nested = nn.ModuleDict(
            {
                f"x{i}{j}": DoubleConv(spatial_dims, j * channels[i] + channels[i + 1], channels[i])
                for i, j in self.nested_nodes()
            }
        )
        initialise_he(self)

    def nested_nodes(self) -> list[tuple[int, int]]:
        """Return (level i, column j) of all nested nodes, each after those it takes: column by column."""
        return [(i, j) for j in range(1, self.depth) for i in range(self.depth - j)]

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return X^{0,depth-1} (B, F, *S) from column 0; `bottom` is what X^{depth-2,1} takes from below."""
        rows = [[x] for x in (*skips, bottom)]
        for i, j in self.nested_nodes():
            rows[i].append(self.nested[f"x{i}{j}"](torch.cat([*rows[i], upsample(rows[i + 1][j - 1])], 1)))
        return rows[0][-1]


@architecture(
    "unet_plus_plus",
    paper="Zhou et al. 2018, arXiv:1807.10165",
    options=UNetPlusPlusOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
    network=UNetPlusPlus,
)
class UNetPlusPlusSegmenter(PlainSegmenter):
    """U-Net++ with a softmax head. Loss: cross-entropy, as U-Netmer trains it; the paper's is 0.5 `ce` + `dice`."""

    network_class = UNetPlusPlus
