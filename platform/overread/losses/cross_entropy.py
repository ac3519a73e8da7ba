"""Cross-entropy with soft targets: the mean over annotators is trained on directly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (B,): mean over voxels of -sum_k t_k log softmax(z)_k.

    `logits` and `targets` are (B, K, *S); targets sum to 1 over K.
    """
    return F.cross_entropy(logits.float(), targets, reduction="none").flatten(1).mean(1)
