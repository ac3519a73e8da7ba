"""Lovász hinge: the convex extension of the Jaccard loss for sigmoid maps (Berman 2018, cited by UNet#'s Eq. 5).

Hinge errors e = 1 - z (2y - 1) are sorted in descending order; the loss is sum relu(e_k) (J_k - J_{k-1}) with
J_k = 1 - (G - cum y) / (G + cum(1 - y)). The sort is the cost, so all samples and maps share one call, and it runs
outside autograd: the weights J_k - J_{k-1} are put back into voxel order, which leaves a product to differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lovasz_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (B,): mean over maps of the Lovász hinge of each sample and map.

    `logits` and `targets` are (B, N, *S). An empty target costs the largest positive error of any voxel. A soft target
    of 1/2 says nothing about its voxel: its error is a constant.
    """
    z, y = logits.float().flatten(2), targets.flatten(2).float()
    errors = 1 - z * (2 * y - 1)
    return (errors.relu() * _jaccard_steps(errors.detach(), y)).sum(2).mean(1)


@torch.no_grad()
def _jaccard_steps(errors: Tensor, y: Tensor) -> Tensor:
    """Return the weight of every voxel: the Jaccard loss that its rank adds, in voxel order."""
    order = errors.argsort(dim=2, descending=True)
    found = y.gather(2, order).cumsum(2)
    total = found[..., -1:]
    ranks = torch.arange(1, y.shape[2] + 1, device=y.device, dtype=y.dtype)
    jaccard = 1 - (total - found) / (total + ranks - found)
    steps = jaccard.clone()
    steps[..., 1:] -= jaccard[..., :-1]
    return torch.empty_like(steps).scatter_(2, order, steps)
