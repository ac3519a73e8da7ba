"""Attention U-Net (Oktay et al. 2018, arXiv:1804.03999): a U-Net whose skips pass additive gates, 2-D and 3-D.

psi = sigmoid(BN(1x1(ReLU(BN(W_g g) + BN(W_x x))))) at every place; the decoder takes x psi instead of the skip x (Eqs.
1-2). W_g and W_x are 1x1 convolutions to half the channels of the level; upsampling is linear x2, Conv3-BN-ReLU.
Differs from the paper, as its usual 2-D form does (the backbone of Attention U-Netmer, 34.88M): g is the upsampled
decoder map at the resolution of x, not the coarser map before upsampling, so psi needs no resampling; every skip is
gated, the finest too; W_g, W_x and psi have biases and BatchNorm; no deep supervision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import convolution, initialise_he, normalisation
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import PlainSegmenter
from overread.architectures.u_shaped import check_depth, doubled
from overread.architectures.unet import UNet, UNetOptions
from overread.errors import UserError
from overread.jsonio import JsonRecord


@dataclass(frozen=True, kw_only=True)
class AttentionUNetOptions(JsonRecord):
    """Options of Attention U-Net; the defaults are the published 64..1024 channels."""

    width: int = 64
    """Channels at full resolution, doubled per level; even, for a gate has half of them inside."""
    depth: int = 5
    """Resolution levels; spatial sizes must be multiples of 2^(depth - 1)."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UserError(f"width must be even and at least 2, but got {self.width}")
        check_depth(self.depth)


class Gate(nn.Module):
    """Additive attention gate: g says where the skip x passes. `psi` gives (B, 1, *S).

    x is (B, `channels`, *S) and g (B, `gating`, *S), by default with as many channels; `inner` is by default half.
    """

    def __init__(
        self, spatial_dims: int, channels: int, *, gating: int | None = None, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = inner or channels // 2
        self.w_g = _projection(spatial_dims, gating or channels, inner)
        self.w_x = _projection(spatial_dims, channels, inner)
        self.psi = nn.Sequential(*_projection(spatial_dims, inner, 1), nn.Sigmoid())

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Return x psi, with psi in (0, 1) and the same for all channels."""
        return x * self.psi(F.relu(self.w_g(g) + self.w_x(x), inplace=True))


class AttentionUNet(UNet):
    """The wiring of Attention U-Net. Inner layers: those of `UNet` and `gates` (finest first, `gates.<level>.psi`).

    >>> import torch
    >>> network = AttentionUNet(AttentionUNetOptions(width=4, depth=3), in_channels=1)
    >>> network(torch.zeros(2, 1, 16, 24)).shape
    torch.Size([2, 4, 16, 24])
    """

    title = "Attention U-Net"

    def __init__(self, options: AttentionUNetOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        plain = UNetOptions(width=options.width, depth=options.depth, upsample="linear")
        super().__init__(plain, in_channels=in_channels, spatial_dims=spatial_dims)
        self.gates = nn.ModuleList(Gate(spatial_dims, c) for c in doubled(options.width, options.depth - 1))
        initialise_he(self.gates)

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """Return the gated skip and the map from below."""
        g = self.ups[level](below)
        return cat([self.gates[level](skip, g), g], 1)


def _projection(spatial_dims: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(spatial_dims, inputs, outputs, kernel=1), normalisation("batch", spatial_dims, outputs)
    )


@architecture(
    "attention_unet",
    paper="Oktay et al. 2018, arXiv:1804.03999",
    options=AttentionUNetOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
    network=AttentionUNet,
)
class AttentionUNetSegmenter(PlainSegmenter):
    """Attention U-Net with a softmax head. Loss: cross-entropy, as U-Netmer trains it; the paper's is `dice`."""

    network_class = AttentionUNet
