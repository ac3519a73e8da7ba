"""Deformable convolution (Dai et al. 2017, arXiv:1703.06211, Eqs. 2-5) in plain PyTorch: 2-D, kernel 3, stride 1.

y(p) = sum over k of w_k x(p + p_k + o_k(p)): each of the nine taps p_k of a Conv3 moves by an offset o_k of its own,
which another Conv3 reads off the same map. x between pixels is bilinear, outside the image it is zero.
Taps are in raster order, offsets are (row, column) in pixels: the order of torchvision's `deform_conv2d`.

Memory: the samples, nine maps of the input's size, are kept for the backward pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = 9


def sample_taps(x: Tensor, offsets: Tensor) -> Tensor:
    """Return what the taps of every pixel see: x (B, C, H, W) and offsets (B, 18, H, W) to (B, C, 9, H, W) float32."""
    batch, channels, height, width = x.shape
    taps = torch.arange(TAPS, device=x.device)[:, None, None]
    down, right = offsets.float().reshape(batch, TAPS, 2, height, width).unbind(2)
    rows = torch.arange(height, device=x.device)[:, None] + taps // 3 - 1 + down
    columns = torch.arange(width, device=x.device) + taps % 3 - 1 + right
    # in the coordinates of grid_sample the image reaches from -1 to 1, to the outer edges of its pixels
    places = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)  # (B, 9, H, W, 2)
    samples = F.grid_sample(x.float(), places.flatten(1, 2), padding_mode="zeros", align_corners=False)
    return samples.reshape(batch, channels, TAPS, height, width)


def deformable_convolution(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map x (B, C, H, W) by a Conv3 `weight` (O, C, 3, 3) with moved taps, offsets (B, 18, H, W), to (B, O, H, W)."""
    samples = sample_taps(x, offsets).flatten(1, 2)
    return F.conv2d(samples, weight.flatten(1)[:, :, None, None], bias)


class DeformableConv(nn.Module):
    """A deformable Conv3 with bias. Inner layers: `offsets` and `convolution`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(inputs, 2 * TAPS, 3, padding=1)
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.rest()

    def rest(self) -> None:
        """Make all offsets zero, where training starts: the layer is then its `convolution`."""
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return deformable_convolution(x, self.offsets(x), self.convolution.weight, self.convolution.bias)
