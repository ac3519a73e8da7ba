"""Feature pyramid (FPN, Lin et al. 2017, arXiv:1612.03144) with the skip connections of UNet# (Qian et al. 2022).

The stages C2..C5 of an encoder (strides 4, 8, 16, 32) give by 1x1 laterals the column 0 of a grid of four levels
(`grid.Grid`, levels 0..3), whose outputs are P2..P5:

- `plain`: FPN. A node is its lateral plus the nodes below upsampled by 2; a Conv3 on each node gives P.
- `nested` (2+), `full_scale` (3+), `sharp` (#): a node is one Conv3 on the concatenation of all that it takes,
  upsampled or max-pooled to its size. P5 is the deepest lateral, as the deepest node of these grids is the encoder's.

P6, for the largest anchors, is P5 at every second pixel. All maps have the same number of channels.
The paper gives no more than this idea. Ours: upsampling is nearest in FPN (as published) and bilinear in the fused
grids (as in UNet#), and inner nodes end with a ReLU (each is a layer of its own) while outputs are linear, as FPN's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import convolution, initialise_he, max_pool, upsample
from overread.architectures.encoders import Encoder
from overread.architectures.grid import Grid, Node, Source, Wiring, name_of

STRIDES = (4, 8, 16, 32)
"""Of C2..C5 and P2..P5."""


class Stages(nn.Module):
    """C2..C5 of an encoder: (B, C, H, W) to four maps of strides 4, 8, 16, 32.

    The stages of VGG16 end with a max-pooling that its encoder leaves to the next one: here it is done.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels = encoder.channels[-len(STRIDES) :]
        self.pools = STRIDES[-1] // encoder.strides[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return C2..C5."""
        maps = self.encoder(x)[-len(STRIDES) :]
        return [max_pool(c, self.pools) for c in maps] if self.pools > 1 else maps


class FeaturePyramid(nn.Module):
    """P2..P6 from C2..C5. Inner layers: `laterals`, and `nodes` by their names in the grid (`x03` gives P2).

    >>> import torch
    >>> pyramid = FeaturePyramid([8, 16, 32, 64], channels=4, wiring="sharp")
    >>> [tuple(p.shape) for p in pyramid([torch.zeros(1, 8 << i, 16 >> i, 8 >> i) for i in range(4)])]
    [(1, 4, 16, 8), (1, 4, 8, 4), (1, 4, 4, 2), (1, 4, 2, 1), (1, 4, 1, 1)]
    """

    def __init__(self, inputs: Sequence[int], *, channels: int, wiring: Wiring) -> None:
        super().__init__()
        self.grid = Grid(wiring=wiring, level=len(inputs) - 1)
        self.sums = wiring == "plain"
        self.laterals = nn.ModuleList(convolution(2, i, channels, kernel=1) for i in inputs)
        if self.sums:
            takes = dict.fromkeys(self.grid.outputs(), 1)
        else:
            takes = {node: len(self.grid.sources(node)) for node in self.grid.nodes() if node[1]}
        self.nodes = nn.ModuleDict({name_of(node): convolution(2, n * channels, channels) for node, n in takes.items()})
        initialise_he(self)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Return P2..P6 (B, channels, ...), finest first."""
        maps: dict[Node, Tensor] = {}
        outputs = self.grid.outputs()
        for node in self.grid.nodes():
            if node[1] == 0:
                maps[node] = self.laterals[node[0]](stages[node[0]])
            elif self.sums:
                lateral, below = (maps[source.node] for source in self.grid.sources(node))
                maps[node] = lateral + F.interpolate(below, scale_factor=2.0, mode="nearest")
            else:
                fused = self.nodes[name_of(node)](cat([_resized(maps, s) for s in self.grid.sources(node)], 1))
                maps[node] = fused if node in outputs else fused.relu()
        pyramid = [self.nodes[name_of(node)](maps[node]) if self.sums else maps[node] for node in outputs]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]


def _resized(maps: dict[Node, Tensor], source: Source) -> Tensor:
    """Return the map of a source in the size of the node that takes it."""
    x = maps[source.node]
    if source.rise == 0:
        return x
    return upsample(x, 2**source.rise) if source.rise > 0 else max_pool(x, 2**-source.rise)
