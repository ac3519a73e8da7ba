"""Soft Dice loss: 1 - (2 sum(y p) + s) / (sum y + sum p + s), smoothed (Laplace) by s (UNet#, Eq. 4)."""

from __future__ import annotations

from torch import Tensor


def dice_loss(probabilities: Tensor, targets: Tensor, smooth: float = 1.0, *, squared: bool = False) -> Tensor:
    """Return (B,): mean over maps of the loss of each sample and map.

    `probabilities` and `targets` are (B, N, *S). Leave the background out before the call. A map empty in both gives 0;
    an empty target with foreground probability gives sum p / (sum p + s), which pushes false positives down. With
    `squared` the denominator has sum y^2 + sum p^2 (V-Net, Milletari et al. 2016), as the programs of TransUNet and
    MT-UNet.
    """
    p, y = probabilities.float().flatten(2), targets.float().flatten(2)
    overlap = (p * y).sum(2)
    sizes = (p**2 + y**2 if squared else p + y).sum(2)
    return (1 - (2 * overlap + smooth) / (sizes + smooth)).mean(1)
