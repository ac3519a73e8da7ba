"""Classification-guided modules of UNet#: does this image show the structure at all? (Qian et al. 2022, Fig. 3)

The supervised node's map is pooled by mean and maximum; a small classifier says for every foreground class whether the
image has any of it, and its yes or no multiplies the branch's probabilities. The target is whether the truth is empty.
Differs from the paper: no ReLU before the softmax (it would forbid sure answers); hidden width C and dropout 0.5 are
ours, the paper gives none; in training the probabilities are not gated, since the yes or no has no gradient. A case
read by sliding windows is gated window by window, as it was trained patch by patch: yes or no is of the window alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.errors import UserError

DROPOUT = 0.5


class Guidance(nn.Module):
    """Pooled features to presence logits. Type A (`hidden`) has a hidden layer of C units, type B has none."""

    def __init__(self, channels: int, structures: int, *, hidden: bool) -> None:
        """Build it for maps of `channels` channels and so many foreground classes."""
        super().__init__()
        pooled = 2 * channels
        layers: list[nn.Module] = [nn.BatchNorm1d(pooled), nn.Dropout(DROPOUT)]
        if hidden:
            layers += [nn.Linear(pooled, channels), nn.ReLU(), nn.BatchNorm1d(channels), nn.Dropout(DROPOUT)]
        last = nn.Linear(channels if hidden else pooled, 2 * structures)
        with torch.no_grad():  # it starts by saying yes: nothing is erased before it has learnt
            last.bias.zero_()
            last.bias[structures:] = 1.0
        self.layers = nn.Sequential(*layers, last)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, *S) to float32 logits (B, 2, structures) of absence and presence."""
        if self.training and len(features) == 1:
            raise UserError("classification guidance must have at least 2 samples per worker and step, but got 1")
        flat = features.flatten(2)
        pooled = torch.cat([flat.mean(2), flat.amax(2)], 1)
        return self.layers(pooled).float().unflatten(1, (2, -1))


def presence_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (B,): cross-entropy of logits (B, 2, N) against the presence of each class in targets (B, N, *S)."""
    present = (targets.flatten(2).amax(2) > 0).long()
    return F.cross_entropy(logits, present, reduction="none").mean(1)


def gate(logits: Tensor, spatial_dims: int) -> Tensor:
    """Return (B, N, 1, ...): 1 where presence is more likely than absence, else 0."""
    present = (logits[:, 1] > logits[:, 0]).float()
    return present.reshape(*present.shape, *[1] * spatial_dims)
