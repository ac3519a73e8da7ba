"""Which pixels of a feature map stand out: Otsu's threshold (Otsu 1979), and the fixed thresholds of UGS-Net V1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BINS = 256


@torch.no_grad()
def otsu_mask(x: Tensor) -> Tensor:
    """Return (B, C, *S), 1 where a pixel is above the Otsu threshold of its own sample and channel and 0 elsewhere.

    The values of a map fall into 256 equal bins from its least to its greatest; the threshold is the upper end of the
    bin up to which the two classes have the largest between-class variance w0 w1 (m0 - m1)^2, the first of several.
    A constant map has nothing to tell apart and is kept whole: 1 everywhere. No gradient flows.
    """
    values = x.float().flatten(2)
    low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
    span = high - low
    flat = span == 0
    bins = ((values - low) / span.masked_fill(flat, 1.0) * BINS).long().clamp_(max=BINS - 1)
    # Sums of whole numbers: exact in float64, so that empty bins are ties and the first of them is taken.
    counts = torch.zeros(*bins.shape[:2], BINS, dtype=torch.float64, device=x.device)
    counts.scatter_add_(2, bins, torch.ones_like(values, dtype=torch.float64))
    below = counts.cumsum(2)
    moments = (counts * torch.arange(BINS, dtype=torch.float64, device=x.device)).cumsum(2)
    total, moment = below[..., -1:], moments[..., -1:]
    above = total - below
    means = moments / below.clamp_min(1), (moment - moments) / above.clamp_min(1)
    between = below * above * (means[0] - means[1]).square()
    mask = (bins > between.argmax(2, keepdim=True)) | flat
    return mask.reshape(x.shape).to(x.dtype)


class OtsuFilter(nn.Module):
    """A map where it stands out, 0 elsewhere: x times its Otsu mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *S) to the same shape."""
        return x * otsu_mask(x)


class FixedQuantiser(nn.Module):
    """0 below -0.5, 128 between, 255 above 0.5: what the UGS-Net V1 code makes of a map, its Otsu histograms unused.

    No gradient passes in V1. Here it is zero instead of none, as distributed training asks for one of every weight.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *S) to the same shape."""
        low, high = (x + 0.5).sign().clamp_min(0), (x - 0.5).sign().clamp_min(0)
        return 128 * low + 127 * high
