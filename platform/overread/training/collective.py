"""The few sums over workers that training needs; without a process group they change nothing.

Every rank must call them at the same points. Tensors live on `device`, because NCCL reduces only there.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def grouped() -> bool:
    """Return whether there is more than one worker."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    """Return the elementwise sum over all workers, on the CPU as float64 (NaN on one worker is NaN in the sum)."""
    total = values.detach().to(device, torch.float64)
    if grouped():
        dist.all_reduce(total)
    return total.cpu()


def sum_with_gradient(values: Tensor) -> Tensor:
    """Return the elementwise sum over all workers; what any of them makes of it has its gradient here."""
    if not grouped():
        return values
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return total


def max_over_ranks(value: float, device: torch.device) -> float:
    """Return the largest value over all workers."""
    if not grouped():
        return value
    highest = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return float(highest)


def any_over_ranks(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any worker: all decide alike, none waits for one that left."""
    return max_over_ranks(float(flag), device) > 0


def average_running_statistics(model: nn.Module) -> None:
    """Give all workers the mean of their floating-point buffers (BatchNorm's running mean and variance)."""
    if not grouped():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()
