"""One optimiser step: losses part by part, one backward per part, one update. Nothing here waits for the device.

With several workers every loss goes through the wrapped module's `forward` (distributed data parallel reduces
gradients only there), gradients are reduced in the last part only, and losses are scaled so that unequal shares of the
batch give the gradient of the whole batch: sum over ranks of n_r * mean_r / n, where DDP averages over ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from overread.records import Batch
from overread.training.augment import Share


@dataclass(frozen=True)
class Precision:
    """How the network computes; chosen by a timed step (`timing.choose_precision`)."""

    bf16: bool = False
    """bfloat16 autocast; weights, optimiser and losses that need it stay float32."""
    channels_last: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which forward runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def memory_format(self, spatial_dims: int) -> torch.memory_format:
        """Return the layout of images and weights."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d

    def place(self, model: nn.Module, spatial_dims: int) -> nn.Module:
        """Bring the kernels of the network into the layout, in place; kernels of other ranks stay as they are."""
        for parameter in model.parameters():
            if parameter.ndim == spatial_dims + 2:
                parameter.data = parameter.data.contiguous(memory_format=self.memory_format(spatial_dims))
        return model


def place_batch(batch: Batch, precision: Precision) -> Batch:
    """Bring images, extras and those of the partner into the layout of `precision`."""
    layout = precision.memory_format(batch.images.ndim - 2)
    return batch.map(images=lambda values: values.contiguous(memory_format=layout))


@dataclass(frozen=True)
class Step:
    """What all steps of a trial share."""

    model: nn.Module
    """The Segmenter, or its distributed wrapper."""
    parts: int
    optimiser: optim.Optimizer
    precision: Precision
    share: Share
    gradient_clip: float | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Do one step on this rank's samples; return the detached terms, summed over parts, as means over samples."""
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.backward(batch)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self.optimiser.step()
        return terms

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradient of the global batch to every parameter."""
        scale = self.share.local * self.share.world_size / self.share.size
        terms: dict[str, Tensor] = {}
        for part, synchronise in self._parts():
            with synchronise:  # the forward belongs inside: DDP decides there whether to reduce
                with self.precision.autocast(batch.images.device):
                    losses = self.model(batch, part)
                (losses["loss"] * scale).backward()
            for name, value in losses.items():
                terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        return terms

    def _parts(self) -> Iterator[tuple[int, AbstractContextManager[object]]]:
        for part in range(self.parts):
            quiet = part < self.parts - 1 and isinstance(self.model, nn.parallel.DistributedDataParallel)
            yield part, self.model.no_sync() if quiet else nullcontext()  # type: ignore[operator]
