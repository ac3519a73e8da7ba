"""Focal loss for sigmoid maps (Lin 2017; UNet#, Eq. 3 completed by its negative case)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return (B,): mean over voxels and maps of -alpha_t (1 - p_t)^gamma log p_t.

    `logits` and `targets` are (B, N, *S); alpha_t is `alpha` for y = 1 and 1 - `alpha` for y = 0. A soft target mixes
    the two cases linearly.
    """
    z = logits.float()
    log_p, log_q = F.logsigmoid(z), F.logsigmoid(-z)
    positive = alpha * targets * log_q.mul(gamma).exp() * log_p
    negative = (1 - alpha) * (1 - targets) * log_p.mul(gamma).exp() * log_q
    return -(positive + negative).flatten(1).mean(1)
