"""The grid that UNet# and its relatives are built from: which node takes what (Qian et al. 2022, Eq. 1 and Fig. 1).

A node is (level i, column j) with i + j <= L; level 0 has the full resolution, column 0 is the encoder, and the nodes
with i + j = L are the decoder. Four wirings say which nodes exist and what they take:

- `plain` (U-Net): encoder and decoder; a decoder node takes the encoder's map of its level and the node below.
- `nested` (U-Net++): all nodes; each takes all earlier nodes of its level and the node below of the column before.
- `full_scale` (UNet 3+): encoder and decoder; a decoder node takes the encoder's maps of its own and all finer levels
  and the decoder nodes of all coarser ones.
- `sharp` (UNet#): as `nested`, and the intra-connections from the nodes X^{i+k,j-k}, k = 2..j, of its anti-diagonal.

Whoever builds a network from it says how maps are resized and joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from overread.errors import UserError

Node = tuple[int, int]
"""(level i, column j)."""
Wiring = Literal["plain", "nested", "full_scale", "sharp"]


@dataclass(frozen=True)
class Source:
    """A map that a node takes."""

    node: Node
    rise: int
    """Levels between: 0 same level, k > 0 from k levels below (upsampled by 2^k), k < 0 from above (pooled by 2^-k)."""

    @property
    def intra(self) -> bool:
        """Whether it is one of UNet#'s intra-connections, where the wiring is `sharp`."""
        return self.rise >= 2


@dataclass(frozen=True)
class Grid:
    """A wiring of depth `level`."""

    wiring: Wiring = "sharp"
    level: int = 4
    """L: nodes with i + j <= L exist."""
    intra: tuple[bool, ...] = ()
    """Whether the nodes of level i take intra-connections (`sharp` only); missing ones do."""

    def __post_init__(self) -> None:
        if self.level < 1:
            raise UserError(f"level must be at least 1, but got {self.level}")

    @property
    def nested(self) -> bool:
        """Whether the nodes between encoder and decoder exist, so that a lower level is part of the grid."""
        return self.wiring in ("nested", "sharp")

    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes, each after all that it takes; of a nested wiring a lower level is a prefix."""
        triangle = [(diagonal - column, column) for diagonal in range(self.level + 1) for column in range(diagonal + 1)]
        if self.nested:
            return tuple(triangle)
        return tuple((i, j) for i, j in triangle if j == 0 or i + j == self.level)

    def outputs(self) -> tuple[Node, ...]:
        """Return the decoder nodes and the deepest of the encoder, the finest first."""
        return tuple((i, self.level - i) for i in range(self.level + 1))

    def sources(self, node: Node) -> tuple[Source, ...]:
        """Return what a node takes, in the order of concatenation: same level, one level below, then the others.

        The first node takes the image: nothing of the grid. `full_scale` goes from the finest level to the coarsest.
        """
        i, j = node
        if j == 0:
            return (Source((i - 1, 0), -1),) if i else ()
        if self.wiring == "full_scale":
            finer = [Source((k, 0), k - i) for k in range(i + 1)]
            return (*finer, *(Source((i + k, j - k), k) for k in range(1, j + 1)))
        same = [Source((i, k), 0) for k in range(j if self.nested else 1)]
        reach = j if self.wiring == "sharp" and all(self.intra[i : i + 1]) else 1
        return (*same, *(Source((i + k, j - k), k) for k in range(1, reach + 1)))


def name_of(node: Node) -> str:
    """Return `x<i><j>`, the name of a node in the weights."""
    return f"x{node[0]}{node[1]}"
