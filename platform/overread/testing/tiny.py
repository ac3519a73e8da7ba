"""A tiny Segmenter and tiny prepared data for tests of the training, the search and the ensemble.

The network is registered only inside `tiny_architecture()`, so the panel of real networks stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overread.architectures.contract import ARCHITECTURES, Losses, Published, Segmenter, architecture
from overread.jsonio import JsonRecord
from overread.records import (
    MAIN,
    Batch,
    Needs,
    OptimiserConfig,
    Prepared,
    PreparedCase,
    PrepareSettings,
    Preprocessing,
    Readings,
    Splits,
    TrialConfig,
    Variant,
)


@dataclass(frozen=True, kw_only=True)
class TinyOptions(JsonRecord):
    """Switches of `TinySegmenter`."""

    width: int = 4
    parts: int = 1
    frozen_norm: bool = False
    """BatchNorm uses (and keeps) its running statistics: one worker and two give the same gradients."""
    dropout: float = 0.0
    fail: str = ""
    """`nan`: the loss is NaN; `cuda`, `cpu`, `memory`: the errors for lack of memory; `bug`: any other error."""
    kernel: int = 1
    """Kernel size of the first convolution."""
    size_multiple: int = 1


class TinySegmenter(Segmenter):
    """Convolution, BatchNorm, 1x1 head; cross-entropy, shared evenly by the parts."""

    default_losses: ClassVar[dict[str, float]] = {"ce": 1.0}

    def __init__(
        self,
        options: TinyOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.options, self.classes = options, classes
        self.needs = Needs(size_multiple=options.size_multiple)
        self.weights = self._loss_weights(losses)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.first = convolution(in_channels, options.width, options.kernel, padding=options.kernel // 2)
        self.norm = (nn.BatchNorm2d if spatial_dims == 2 else nn.BatchNorm3d)(options.width)
        self.head = convolution(options.width, classes, 1)

    def train(self, mode: bool = True) -> TinySegmenter:
        """Set the mode; a frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.options.frozen_norm:
            self.norm.eval()
        return self

    def parts(self) -> int:
        """Return the number of backward passes of a step."""
        return self.options.parts

    def logits(self, images: Tensor) -> Tensor:
        """Return (B, K, *S)."""
        hidden = F.relu(self.norm(self.first(images)))
        return self.head(F.dropout(hidden, self.options.dropout, self.training))

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return the cross-entropy of one part, or fail as the options say."""
        _fail(self.options.fail)
        logits = self.logits(batch.images).float()
        loss = F.cross_entropy(logits, batch.soft_targets(self.classes)) * self.weights["ce"] / self.parts()
        if self.options.fail == "nan":
            loss = loss * float("nan")
        return {"ce": loss, "loss": loss}

    def variants(self) -> tuple[Variant, ...]:
        """Return `main` and a variant whose probabilities are those of doubled logits."""
        return (Variant(name=MAIN), Variant(name="sharp", options={"factor": 2.0}))

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Return softmax probabilities; the alternatives are the readings at factors 1 and 2."""
        logits = self.logits(batch.images).float()

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            for factor in (1, 2):
                yield f"factor_{factor}", (logits * factor).softmax(1)

        factor = 1.0 if variant is None else float(variant.options.get("factor", 1.0))
        return Readings(probabilities=(logits * factor).softmax(1), alternatives=alternatives)


def _fail(kind: str) -> None:
    errors: dict[str, Exception] = {
        "cuda": RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        "memory": MemoryError(),
        "bug": RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    }
    if kind in errors:
        raise errors[kind]


@contextmanager
def tiny_architecture(segmenter: type[TinySegmenter] = TinySegmenter, name: str = "tiny") -> Iterator[None]:
    """Register a tiny Segmenter as architecture `name` for the time of a test."""
    published = Published(in_channels=1, classes=2, size=(8, 8))
    architecture(name, paper="none", options=TinyOptions, published=published, spatial_dims=(2, 3))(segmenter)
    try:
        yield
    finally:
        del ARCHITECTURES._entries[name]


def tiny_config(**changes: Any) -> TrialConfig:
    """Return a config of the tiny network on `tiny_prepared` images, with some fields changed."""
    fields: dict[str, Any] = {
        "architecture": "tiny",
        "options": {},
        "in_channels": 1,
        "classes": 2,
        "patch_size": (8, 8),
        "batch_size": 4,
        "steps": 12,
        "epochs": 3,
        "optimiser": OptimiserConfig(learning_rate=0.05),
        "mixed_precision": False,
    }
    return TrialConfig(**(fields | changes))


def tiny_prepared(
    root: Path, *, cases: int = 10, shape: tuple[int, int, int] = (1, 8, 8), volumes: bool = False, seed: int = 0
) -> Prepared:
    """Write prepared arrays of bright squares on noise; return their manifest: 2 folds, the first with a third.

    The truth has the native shape, (D, H, W) for volumes and (H, W) for images: preparation changed nothing.
    """
    records = tuple(_write_case(root, index, shape, volumes, seed) for index in range(cases))
    names = tuple(record.id for record in records)
    return Prepared(
        root=str(root),
        dataset="tiny",
        label_names=("background", "square"),
        label_values=(0, 1),
        settings=PrepareSettings(folds=2),
        preprocessing=Preprocessing(
            channels=("grey",),
            ct=(False,),
            spatial_dims=3 if volumes else 2,
            slice_axis=0 if volumes else None,
            max_side=128,
        ),
        cases=records,
        splits=Splits(locked=(), calibration=(), folds=(names[: cases // 3], names[cases // 3 :])),
        content="tiny",
    )


def _write_case(root: Path, index: int, shape: tuple[int, int, int], volumes: bool, seed: int) -> PreparedCase:
    rng = np.random.default_rng((seed, index))
    labels = np.zeros(shape, np.uint8)
    _, height, width = shape
    row, column = rng.integers(0, height // 2), rng.integers(0, width // 2)
    labels[:, row : row + height // 2, column : column + width // 2] = 1
    image = (rng.normal(0, 0.3, shape) + 2.0 * labels - 0.5).astype(np.float32)
    folder = root / "cases" / f"{index:05d}"
    folder.mkdir(parents=True)
    np.save(folder / "image.npy", image[None])
    np.save(folder / "labels.npy", labels[None])
    np.save(folder / "truth.npy", labels if volumes else labels[0])
    return PreparedCase(
        index=index,
        id=f"case{index}",
        group=f"case{index}",
        native_shape=shape if volumes else shape[1:],
        shape=shape,
        spacing=None,
        annotators=("reference",),
        foreground=(1,),
    )
