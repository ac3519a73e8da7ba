"""Soft Dice loss with Laplace smoothing: 1 - (2 sum(y p) + s) / (sum y + sum p + s) (UNet#, Eq. 4)."""

from __future__ import annotations

from torch import Tensor


def dice_loss(probabilities: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Return (B,): mean over maps of the loss of each sample and map.

    `probabilities` and `targets` are (B, N, *S). Leave the background out before the call. A map empty in both gives 0;
    an empty target with foreground probability gives sum p / (sum p + s), which pushes false positives down.
    """
    p, y = probabilities.float().flatten(2), targets.flatten(2)
    overlap = (p * y).sum(2)
    return (1 - (2 * overlap + smooth) / (p.sum(2) + y.sum(2) + smooth)).mean(1)
