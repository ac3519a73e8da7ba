"""Binary cross-entropy of sigmoid maps with soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (B,): mean over voxels and maps of -y log p - (1 - y) log(1 - p), p the sigmoid of the logits.

    `logits` and `targets` are (B, N, *S). It is linear in the target: against the mean of several masks it is the mean
    over them.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").flatten(1).mean(1)
