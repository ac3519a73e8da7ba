"""How UGS-Net joins what it knows of several annotators: feature-aware attention, and intersection-union constraints.

Three branch maps R_z (z: the annotators' masks, their union, their intersection) and the map R they come from, of
twice their channels. A feature-aware attention block (FAAB, Eq. 1) looks at R_z as a whole by self-attention A and
filters what it sees by Gamma_z: Gabor filters for the annotators and the union, whose edges are in doubt, an Otsu mask
for the intersection, which stands out.

With constraints (IUCM): R'_z = [R_z, Gamma_z(A(R_z))] has the channels of R; S_z = d(R'_z, R) is its L2 distance from
R, and [S_z R'_z for all z, R], four times the channels of R, is fused by two Conv3-BN-ReLU.
Without (UGS-Net V1): R'_z = g Gamma_z(attention) + R_z, and [R'_z for all z, R] is fused alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import DoubleConv, convolution, max_pool
from overread.architectures.gabor import GaborConv
from overread.architectures.otsu import FixedQuantiser, OtsuFilter

Distance = Literal["per_pixel", "per_sample"]
ANNOTATORS, UNION, INTERSECTION = "annotators", "union", "intersection"
BRANCHES = (ANNOTATORS, UNION, INTERSECTION)
"""R_Uni, R_LC and R_HC of the paper, as they are put together."""
EPSILON = 1e-8
"""Under the root of a distance, whose slope at 0 would be infinite."""


class PositionAttention(nn.Module):
    """Self-attention over the pixels of a map: A(R) = g softmax(q^T k) v + R, with g = 0 at the start; 2-D.

    Queries and keys have an eighth of the channels, the scores are not scaled (as in DANet, Fu et al. 2019). With
    `pool` keys and values come from the map max-pooled by it, at 1 / `pool`^2 of the cost (non-local networks, Wang et
    al. 2018, section 3.3); sizes must be multiples of it.
    """

    def __init__(self, channels: int, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        inner = max(1, channels // 8)
        self.query = convolution(2, channels, inner, kernel=1)
        self.key = convolution(2, channels, inner, kernel=1)
        self.value = convolution(2, channels, channels, kernel=1)
        self.gain = nn.Parameter(torch.zeros(()))

    def attended(self, x: Tensor) -> Tensor:
        """Return softmax(q^T k) v (B, C, H, W) of (B, C, H, W)."""
        pooled = max_pool(x, self.pool) if self.pool > 1 else x
        maps = self.query(x), self.key(pooled), self.value(pooled)
        q, k, v = (t.flatten(2).transpose(1, 2).contiguous() for t in maps)
        # Queries and keys as long as the values: the fused kernels, which never hold the (HW)^2 scores, ask for that.
        q, k = (F.pad(t, (0, v.shape[2] - t.shape[2])) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)
        return mixed[:, 0].transpose(1, 2).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.gain * self.attended(x) + x


class FeatureAwareAttention(nn.Module):
    """FAAB: (B, C, H, W) to (B, 2 C, H, W) with `beside`, and to the same shape without (UGS-Net V1)."""

    def __init__(self, channels: int, filtering: nn.Module, *, beside: bool, pool: int = 1) -> None:
        super().__init__()
        self.attention = PositionAttention(channels, pool)
        self.filtering = filtering
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        """Return what attention and filter make of x, beside it or, gained, added to it."""
        if self.beside:
            return cat([x, self.filtering(self.attention(x))], 1)
        return self.attention.gain * self.filtering(self.attention.attended(x)) + x


def feature_distance(first: Tensor, second: Tensor, kind: Distance) -> Tensor:
    """Return the L2 distance of two maps (B, C, H, W) over the root of the number of values it is over, float32.

    `per_pixel`: over the channels, (B, 1, H, W). `per_sample`: over channels and pixels, (B, 1, 1, 1).
    """
    axes = (1,) if kind == "per_pixel" else (1, 2, 3)
    return ((first.float() - second.float()).square().mean(axes, keepdim=True) + EPSILON).sqrt()


class IntersectionUnion(nn.Module):
    """The blocks of all branches and the fusion of what they give. Inner layers: `blocks.<branch>`, `fuse`."""

    def __init__(
        self, channels: int, *, constrained: bool, v1_filters: bool, distance: Distance, pool: int = 1
    ) -> None:
        super().__init__()
        self.constrained, self.distance = constrained, distance
        inner = channels // 2
        kernel = 1 if v1_filters else 3
        filters: dict[str, nn.Module] = {
            ANNOTATORS: GaborConv(inner, kernel),
            UNION: GaborConv(inner, kernel),
            INTERSECTION: FixedQuantiser() if v1_filters else OtsuFilter(),
        }
        self.blocks = nn.ModuleDict(
            {name: FeatureAwareAttention(inner, filters[name], beside=constrained, pool=pool) for name in BRANCHES}
        )
        taken = len(BRANCHES) * (channels if constrained else inner) + channels
        self.fuse = DoubleConv(2, taken, channels)

    def forward(self, whole: Tensor, branches: Mapping[str, Tensor]) -> Tensor:
        """Map R (B, C, H, W) and the maps of the branches (B, C / 2, H, W) to (B, C, H, W)."""
        maps = [self.blocks[name](branches[name]) for name in BRANCHES]
        if self.constrained:
            maps = [x * feature_distance(x, whole, self.distance).to(x.dtype) for x in maps]
        return self.fuse(cat([*maps, whole], 1))
