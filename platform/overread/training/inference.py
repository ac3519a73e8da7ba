"""Reading whole cases with a trained Segmenter.

A case is cut into windows of `config.patch_size` (rounded up to the network's size multiple), padded where it is
smaller, read in batches and put together with Gaussian weights (nnU-Net, Isensee 2021: overlap 1/2, sigma 1/8 of the
window). A case that fits one window is read whole. 2-D networks read every slice. Shapes: C channels, K classes,
D H W the prepared axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from overread.architectures.contract import Segmenter, build_segmenter
from overread.errors import UserError
from overread.records import MAIN, Batch, Readings, TrialConfig, Variant
from overread.training.checkpoint import load_weights
from overread.training.step import Precision, place_batch

OVERLAP = 0.5
SIGMA = 0.125
PLAIN = Precision()
"""float32: what members are measured and packaged with."""


def load_segmenter(config: TrialConfig, weights: Path, device: torch.device | str) -> Segmenter:
    """Build the network of a trial with its weights, ready to read."""
    segmenter = build_segmenter(config)
    load_weights(weights, segmenter)
    return segmenter.to(device).eval()


def predict_volume(
    segmenter: Segmenter,
    image: np.ndarray | Tensor,
    config: TrialConfig,
    variant: Variant | None,
    device: torch.device | str,
    *,
    anchors: Batch | None = None,
    extras: Mapping[str, Tensor] | None = None,
    precision: Precision = PLAIN,
) -> np.ndarray:
    """Return the probabilities (K, D, H, W) float32 of an image (C, D, H, W); they sum to 1 over K.

    `anchors` are given to every read, `extras` (channels, D, H, W) are those of the case; None: they are computed.
    """
    case = _Case.of(segmenter, image, config, torch.device(device), extras)
    anchors = _placed(anchors, case, precision)
    stitch = _Stitch(case, segmenter.classes)
    with torch.inference_mode():
        for windows in case.batches():
            readings = _read(segmenter, case, windows, variant, precision, anchors)
            with precision.autocast(case.device):
                stitch.add(windows, readings.probabilities)
        return stitch.result()


def predict_alternatives(
    segmenter: Segmenter,
    image: np.ndarray | Tensor,
    config: TrialConfig,
    variant: Variant | None,
    device: torch.device | str,
    *,
    anchors: Batch | None = None,
    extras: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    precision: Precision = PLAIN,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, probabilities (K, D, H, W)) of every alternative reading, one stitched case in memory at a time.

    The lazy alternatives of all batches advance in step, so nothing is computed twice and nothing is stacked.
    """
    case = _Case.of(segmenter, image, config, torch.device(device), extras)
    anchors = _placed(anchors, case, precision)
    with torch.inference_mode():
        groups = list(case.batches())
        readings = [_read(segmenter, case, group, variant, precision, anchors, generator) for group in groups]
    yield from _alternatives(case, groups, readings, segmenter.classes, precision)


def predict_readings(
    segmenter: Segmenter,
    image: np.ndarray | Tensor,
    config: TrialConfig,
    device: torch.device | str,
    *,
    extras: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what `predict_volume` returns as `main`, then what `predict_alternatives` yields, of the same passes."""
    case = _Case.of(segmenter, image, config, torch.device(device), extras)
    stitch = _Stitch(case, segmenter.classes)
    with torch.inference_mode():
        groups = list(case.batches())
        readings = [_read(segmenter, case, group, None, PLAIN) for group in groups]
        for windows, reading in zip(groups, readings, strict=True):
            stitch.add(windows, reading.probabilities)
    yield MAIN, stitch.result()
    yield from _alternatives(case, groups, readings, segmenter.classes, PLAIN)


def _alternatives(
    case: _Case, groups: list[list[_Window]], readings: list[Readings], classes: int, precision: Precision
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the alternatives of the readings of all groups of windows, stitched."""
    with torch.inference_mode():
        iterators = [reading.alternatives() for reading in readings]
    while True:
        with torch.inference_mode(), precision.autocast(case.device):
            items = [next(iterator, None) for iterator in iterators]
        found = [item for item in items if item is not None]
        if not found:
            return
        stitch = _Stitch(case, classes)
        for windows, (_, probabilities) in zip(groups, found, strict=True):
            stitch.add(windows, probabilities)
        yield found[0][0], stitch.result()


@dataclass(frozen=True)
class FoundInstances:
    """The single objects of an image."""

    ids: np.ndarray
    """(D, H, W) int32: 0 none, i + 1 the pixels of object i."""
    scores: tuple[float, ...]
    """Of object i, falling."""

    def scored(self, least: float) -> FoundInstances:
        """Return the objects with at least this score."""
        count = sum(score >= least for score in self.scores)
        return FoundInstances(np.where(self.ids > count, 0, self.ids), self.scores[:count])


def predict_instances(
    segmenter: Segmenter,
    image: np.ndarray | Tensor,
    config: TrialConfig,
    device: torch.device | str,
    *,
    precision: Precision = PLAIN,
) -> FoundInstances:
    """Return the objects that a detector finds in an image (C, 1, H, W), read whole: windows would cut objects.

    Raises `UserError` for networks that find no instances, and for volumes.
    """
    if image.shape[1] != 1:
        raise UserError(f"instances must be read in images, but got a volume of {image.shape[1]} slices")
    multiple = segmenter.needs.size_multiple
    sizes = zip(image.shape[-2:], config.patch_size, strict=True)
    whole = tuple(max(-(-side // multiple) * multiple, patch) for side, patch in sizes)
    case = _Case.of(segmenter, image, replace(config, patch_size=whole), torch.device(device), None)
    with torch.inference_mode():
        (windows,) = case.batches()
        readings = _read(segmenter, case, windows, None, precision)
    if readings.instances is None:
        raise UserError(f"instances must come from a network that finds them, but {config.architecture} does not")
    (found,) = readings.instances
    crop = tuple(slice(a, a + n) for a, n in zip(case.before[1:], case.shape[1:], strict=True))
    return FoundInstances(found.ids[crop].cpu().numpy()[None], tuple(found.scores.tolist()))


def _placed(anchors: Batch | None, case: _Case, precision: Precision) -> Batch | None:
    return None if anchors is None else place_batch(anchors.to(case.device), precision)


def _read(
    segmenter: Segmenter,
    case: _Case,
    windows: list[_Window],
    variant: Variant | None,
    precision: Precision,
    anchors: Batch | None = None,
    generator: torch.Generator | None = None,
) -> Readings:
    batch = place_batch(case.batch(windows), precision)
    with precision.autocast(case.device):
        return segmenter.read(batch, variant=variant, anchors=anchors, generator=generator)


@dataclass(frozen=True)
class _Window:
    """A window of the padded case: the slice it lies in (2-D networks) and its first voxel along each spatial axis."""

    slice: int | None
    start: tuple[int, ...]


@dataclass(frozen=True)
class _Case:
    """A padded case on the device, (C, D, H, W)."""

    image: Tensor
    extras: dict[str, Tensor]
    shape: tuple[int, ...]
    """(D, H, W) before padding."""
    before: tuple[int, ...]
    """Voxels padded before D, H and W."""
    window: tuple[int, ...]
    batch_size: int
    device: torch.device

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        image: np.ndarray | Tensor,
        config: TrialConfig,
        device: torch.device,
        extras: Mapping[str, Tensor] | None,
    ) -> _Case:
        if image.ndim != 4 or image.shape[0] != config.in_channels:
            raise UserError(
                f"an image must be ({config.in_channels}, D, H, W), but its shape is {tuple(image.shape)}: "
                "read it with the preprocessing of the member"
            )
        tensor = torch.as_tensor(np.asarray(image), dtype=torch.float32).to(device)
        with torch.inference_mode():
            extras = segmenter.case_inputs(tensor) if extras is None else extras
        multiple = segmenter.needs.size_multiple
        window = tuple(-(-size // multiple) * multiple for size in config.patch_size)
        padding = pad_amounts(tuple(tensor.shape[1:]), window)
        pads = [amount for pair in reversed(padding) for amount in pair]
        return cls(
            image=F.pad(tensor, pads),
            extras={name: F.pad(extra.to(device), pads) for name, extra in extras.items()},
            shape=tuple(tensor.shape[1:]),
            before=tuple(first for first, _ in padding),
            window=window,
            batch_size=max(config.batch_size, 1),
            device=device,
        )

    def batches(self) -> Iterator[list[_Window]]:
        """Yield the windows of the case in groups of the batch size."""
        slices: list[int | None] = [None] if len(self.window) == 3 else list(range(self.image.shape[1]))
        sizes = self.image.shape[-len(self.window) :]
        starts = [window_starts(size, window) for size, window in zip(sizes, self.window, strict=True)]
        windows = (_Window(index, start) for index in slices for start in itertools.product(*starts))
        while group := list(itertools.islice(windows, self.batch_size)):
            yield group

    def batch(self, windows: list[_Window]) -> Batch:
        """Return the windows as a batch without labels."""
        count = len(windows)
        return Batch(
            images=torch.stack([self.image[self.index(window)] for window in windows]),
            labels=torch.zeros((count, 0, *self.window), dtype=torch.uint8, device=self.device),
            valid=torch.zeros((count, 0), dtype=torch.bool, device=self.device),
            extras={n: torch.stack([extra[self.index(w)] for w in windows]) for n, extra in self.extras.items()},
        )

    def index(self, window: _Window) -> tuple[slice | int, ...]:
        """Return the index of a window into (channels, D, H, W)."""
        spatial = tuple(slice(a, a + n) for a, n in zip(window.start, self.window, strict=True))
        return (slice(None), *spatial) if window.slice is None else (slice(None), window.slice, *spatial)


class _Stitch:
    """Running weighted mean of overlapping windows; one window per place is copied as it is."""

    def __init__(self, case: _Case, classes: int) -> None:
        spatial = case.image.shape[1:]
        self.case = case
        self.total = torch.zeros((classes, *spatial), device=case.device)
        sizes = spatial[-len(case.window) :]
        self.whole = tuple(sizes) == case.window
        self.weights = None if self.whole else torch.zeros(spatial, device=case.device)
        self.gaussian = None if self.whole else gaussian_window(case.window).to(case.device)

    def add(self, windows: list[_Window], probabilities: Tensor) -> None:
        """Add (B, K, *window) probabilities."""
        for window, values in zip(windows, probabilities.float(), strict=True):
            index = self.case.index(window)
            if self.weights is None or self.gaussian is None:
                self.total[index] = values
            else:
                self.total[index] += values * self.gaussian
                self.weights[index[1:]] += self.gaussian

    def result(self) -> np.ndarray:
        """Return (K, D, H, W) float32 without the padding."""
        total = self.total if self.weights is None else self.total / self.weights
        crop = tuple(slice(a, a + n) for a, n in zip(self.case.before, self.case.shape, strict=True))
        return total[(slice(None), *crop)].cpu().numpy()


def pad_amounts(shape: tuple[int, ...], window: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the padding (before, after) of D, H and W to at least the window; the image stays in the middle."""
    wanted = (1,) * (3 - len(window)) + window
    missing = [max(size - have, 0) for have, size in zip(shape, wanted, strict=True)]
    return [(amount // 2, amount - amount // 2) for amount in missing]


def window_starts(size: int, window: int) -> list[int]:
    """Return the first voxels of evenly spread windows that cover `size` and overlap by at least half."""
    count = -(-(size - window) // max(int(window * (1 - OVERLAP)), 1)) + 1
    return [round(i * (size - window) / max(count - 1, 1)) for i in range(count)]


def gaussian_window(window: tuple[int, ...]) -> Tensor:
    """Return the weights of one window, largest in its middle, everywhere above zero."""
    weights = torch.ones(())
    for size in window:
        offsets = (torch.arange(size) - (size - 1) / 2) / (size * SIGMA)
        weights = weights[..., None] * torch.exp(-0.5 * offsets**2)
    return (weights / weights.max()).clamp_min(1e-3)
