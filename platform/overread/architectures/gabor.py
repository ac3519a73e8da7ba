"""Gabor filters and a convolution that they modulate (Luan et al. 2018, Gabor Conv. Networks, arXiv:1705.01450).

Every learned kernel is multiplied by each filter of a fixed bank, so that it looks for one thing in M orientations.
The filters are those of the UGS-Net V1 code at its only scale n = 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORIENTATIONS = 4
"""M; fewer where the channels are not a multiple of it."""
FREQUENCY = math.pi / 2
"""kappa = (pi / 2) / sqrt(2)^(n - 1) at n = 1, in radians per pixel."""
SPREAD = math.pi
"""sigma, in radians: the envelope has a standard deviation of sigma / kappa = 2 pixels."""


def gabor_bank(orientations: int, kernel: int) -> Tensor:
    """Return (orientations, kernel, kernel) filters in [0, 1], centred; `kernel` is odd, the last axis is x.

    g(x, y) = kappa^2 / sigma^2 exp(-kappa^2 (x^2 + y^2) / (2 sigma^2)) (cos(kappa (x cos t + y sin t)) -
    exp(-sigma^2 / 2)) with t = i pi / M, scaled to [0, 1] filter by filter. A filter of one pixel is 1: no effect.
    """
    if kernel == 1:
        return torch.ones(orientations, 1, 1)
    offsets = torch.arange(kernel) - kernel // 2
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    angles = (torch.arange(orientations) * (math.pi / orientations)).reshape(-1, 1, 1)
    envelope = FREQUENCY**2 / SPREAD**2 * torch.exp(-(FREQUENCY**2) * (x**2 + y**2) / (2 * SPREAD**2))
    wave = torch.cos(FREQUENCY * (x * torch.cos(angles) + y * torch.sin(angles))) - math.exp(-(SPREAD**2) / 2)
    filters = envelope * wave
    low, high = filters.amin((1, 2), keepdim=True), filters.amax((1, 2), keepdim=True)
    return (filters - low) / (high - low)


class GaborConv(nn.Module):
    """Gabor-modulated convolution of `channels` maps to as many, without bias; 2-D.

    As published every input map stands M times in a row, every copy with its own learned kernel, and output o M + i is
    the sum over all copies of kernel o times filter i. Copies of a map differ in nothing, so their kernels are added
    first: the same result for a fraction of the work.
    """

    bank: Tensor

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.orientations = math.gcd(ORIENTATIONS, channels)
        self.register_buffer("bank", gabor_bank(self.orientations, kernel))
        # Four axes, (C / M, C M, k, k), as a channels-last network allows no five.
        kernels, copies = channels // self.orientations, channels * self.orientations
        self.weight = nn.Parameter(torch.empty(kernels, copies, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        learned = self.weight.reshape(len(self.weight), -1, self.orientations, *self.bank.shape[1:]).sum(2)
        modulated = (learned[:, None] * self.bank[:, None]).flatten(0, 1)
        return F.conv2d(x, modulated, padding=self.bank.shape[-1] // 2)
