"""Export of a trained network to ONNX, and the proof that it reads the same there.

The exported graph maps `images` (B, C, *S) float32, S the size it is exported for and any B, to `probabilities`
(B, K, *S) of `main`. Needs the extra `onnx` (onnx, onnxscript, onnxruntime).
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from overread.architectures.contract import Segmenter
from overread.errors import UserError
from overread.jsonio import write_bytes
from overread.records import Batch

TOLERANCE = 1e-4
"""Largest difference of probabilities between PyTorch and ONNX Runtime."""


class _Reading(nn.Module):
    """A Segmenter as a function of images alone."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        count, *_ = images.shape
        batch = Batch(
            images=images,
            labels=torch.zeros((count, 0, *images.shape[2:]), dtype=torch.uint8),
            valid=torch.zeros((count, 0), dtype=torch.bool),
        )
        return self.segmenter.read(batch).probabilities


def check_export(segmenter: Segmenter) -> None:
    """Raise `UserError` if the extra is missing, or the network is not a function of images that ONNX can hold."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX export must find {', '.join(missing)}, but they are missing: pip install overread[onnx]")
    if segmenter.needs.extras:
        raise UserError(f"ONNX export takes images alone, but the network needs {sorted(segmenter.needs.extras)} too")
    if segmenter.needs.instances:  # how many boxes it looks at depends on the image
        raise UserError("ONNX export takes networks of a fixed computation, but this one looks for objects: choose one")


def export_onnx(segmenter: Segmenter, path: Path, *, in_channels: int, size: tuple[int, ...]) -> float:
    """Write `segmenter` as ONNX for images (B, in_channels, *size); return the largest difference of its probabilities.

    Raises:
        UserError: It cannot be exported (`check_export`), or ONNX Runtime reads otherwise.

    """
    check_export(segmenter)
    reading = _Reading(segmenter.float().cpu().eval())
    example = torch.randn(2, in_channels, *size, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            reading,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None  # noqa: S101  (the new exporter returns its program)
    content = program.model_proto.SerializeToString()
    difference = _difference(content, reading, in_channels, size)
    if not difference <= TOLERANCE:
        raise UserError(f"ONNX Runtime must read within {TOLERANCE:g} of PyTorch, but differs by {difference:.2g}")
    write_bytes(path, content)
    return difference


def _difference(content: bytes, reading: nn.Module, in_channels: int, size: tuple[int, ...]) -> float:
    """Return the largest difference on three images that the export has not seen."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = torch.randn(3, in_channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = reading(images).numpy()
    (theirs,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(ours - theirs).max())
