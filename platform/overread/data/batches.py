"""`BatchSource`: the batches of a training, made from memory-mapped cases.

Every batch follows from `(config.seed, global step)` alone: a resumed training sees what it would have seen, and the
batch of a step is the same for any number of workers; worker r takes its samples r, r + world_size, ...
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from overread.data.store import CaseArrays, open_case
from overread.errors import UserError
from overread.records import Batch, Needs, Prepared, PreparedCase, TrialConfig

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
MAX_PATCH_VOXELS = 64 * 64 * 48
"""Largest default 3-D patch: about what a small 3-D network trains on at a few steps per second on a CPU."""
FOREGROUND_POINTS = 4096
"""Foreground voxels remembered per case as possible patch centres."""


def default_patch_size(prepared: Prepared, spatial_dims: int, size_multiple: int) -> tuple[int, ...]:
    """Return the sizes that hold every prepared case, rounded up to the multiple.

    2-D: (H, W). 3-D: (D, H, W), the longest side cut down until the patch has at most `MAX_PATCH_VOXELS` voxels.
    That images are padded to the multiple, and readings cut back, is logged once.
    """
    largest = largest_sides(prepared, spatial_dims)
    if any(n % size_multiple for n in largest):
        _tell_padding(largest, size_multiple)
    size = [-(-int(n) // size_multiple) * size_multiple for n in largest]
    while spatial_dims == 3 and np.prod(size) > MAX_PATCH_VOXELS and max(size) > size_multiple:
        size[size.index(max(size))] -= size_multiple
    return tuple(size)


def largest_sides(prepared: Prepared, spatial_dims: int) -> tuple[int, ...]:
    """Return the largest sides of the prepared cases, (H, W) or (D, H, W)."""
    shapes = np.asarray([case.shape for case in prepared.cases])
    return tuple(int(n) for n in shapes.max(axis=0)[3 - spatial_dims :])


@cache
def _tell_padding(sides: tuple[int, ...], multiple: int) -> None:
    shown = " x ".join(map(str, sides))
    log.info(
        "images of up to %s are padded to multiples of %d, which the network needs; readings are cut back",
        shown,
        multiple,
    )


@dataclass(frozen=True)
class _Sample:
    """One sample of a batch: which case, from where, and a seed for what else is random."""

    case: int
    foreground: bool
    """Taken from a slice with, or around a voxel of, foreground."""
    seed: tuple[int, ...]


class BatchSource:
    """Batches of a list of cases, as CPU tensors, for one worker."""

    def __init__(
        self,
        prepared: Prepared,
        case_ids: Sequence[str],
        config: TrialConfig,
        needs: Needs,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not case_ids:
            raise UserError("a training must have at least one case, but its list of cases is empty: check the splits")
        if needs.pairs and len(case_ids) < 2:
            raise UserError(
                f"pairs must be drawn from at least two training cases, but there is one, '{case_ids[0]}': "
                "add cases or train a network that takes single images"
            )
        if config.batch_size < world_size:
            raise UserError(
                f"batch_size must be at least the number of workers, but got {config.batch_size} for {world_size}: "
                "raise it or use fewer workers"
            )
        by_id = {case.id: case for case in prepared.cases}
        self._cases: list[PreparedCase] = [by_id.get(case) or prepared.case(case) for case in case_ids]
        without = [case.id for case in self._cases if needs.instances and not case.instances]
        if without:
            raise UserError(
                f"every training case must have instance ids, but {len(without)} (such as '{without[0]}') have none: "
                "add them in instances/"
            )
        self._arrays: list[CaseArrays] = [open_case(prepared, case) for case in self._cases]
        self._annotators = sorted({name for case in prepared.cases for name in case.annotators})
        self._config, self._needs = config, needs
        self._rank, self._world_size = rank, world_size
        self._points: dict[int, NDArray[np.int32]] = {}

    @property
    def annotators(self) -> tuple[str, ...]:
        """Annotators of the data set, in the order of `Batch.labels`."""
        return tuple(self._annotators)

    def steps(self, steps: int, first_step: int) -> Iterator[Batch]:
        """Yield this worker's share of the batches of the global steps `first_step .. first_step + steps - 1`."""
        for step in range(first_step, first_step + steps):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """Return this worker's share of the batch of a global step."""
        batch = self._assemble(self._draw(step, stream=0))
        if self._needs.pairs:
            batch.partner = self._assemble(self._draw(step, stream=1))
        return batch

    def _draw(self, step: int, stream: int) -> list[_Sample]:
        """Choose the samples of a step: cases in a new random order each pass, half of them with foreground."""
        size, count, seed = self._config.batch_size, len(self._cases), self._config.seed
        rng = np.random.default_rng((seed, stream, 1, step))
        foreground = rng.permutation(size) < (size + 1) // 2
        samples = []
        for place in range(self._rank, size, self._world_size):
            turn, position = divmod(step * size + place, count)
            order = np.random.default_rng((seed, stream, 2, turn)).permutation(count)
            samples.append(_Sample(int(order[position]), bool(foreground[place]), (seed, stream, 3, step, place)))
        return samples

    def _assemble(self, samples: Sequence[_Sample]) -> Batch:
        import torch

        cut = [self._cut(sample) for sample in samples]

        def stack(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([arrays[name] for arrays in cut]))

        return Batch(
            images=stack("image"),
            labels=stack("labels"),
            valid=stack("valid"),
            extras={name: stack(f"extra {name}") for name in self._needs.extras},
            instances=stack("instances")[:, 0] if self._needs.instances else None,
        )

    def _cut(self, sample: _Sample) -> dict[str, NDArray[Any]]:
        """Return the arrays of one sample, cropped or padded to the patch size."""
        case, arrays = self._cases[sample.case], self._arrays[sample.case]
        rng = np.random.default_rng(sample.seed)
        start = self._corner(rng, sample)
        size = (1,) * (3 - len(self._config.patch_size)) + self._config.patch_size
        slots = [self._annotators.index(name) for name in case.annotators]
        labels = np.zeros((len(self._annotators), *size), np.uint8)
        labels[slots] = crop_or_pad(arrays.labels, start, size)
        result: dict[str, NDArray[Any]] = {"image": crop_or_pad(arrays.image, start, size), "labels": labels}
        for name in self._needs.extras:
            result[f"extra {name}"] = crop_or_pad(arrays.read_extra(self._needs.stored_extra(name)), start, size)
        if self._needs.instances:
            result["instances"] = crop_or_pad(arrays.instances[None], start, size)
        if self._config.spatial_dims == 2:
            result = {name: array[:, 0] for name, array in result.items()}
        valid = np.zeros(len(self._annotators), bool)
        valid[slots] = True
        if self._config.annotations == "first":
            valid = first_who_drew(result["labels"], valid)
        return result | {"valid": valid}

    def _corner(self, rng: np.random.Generator, sample: _Sample) -> tuple[int, ...]:
        """Choose the first voxel (D, H, W) of a sample; negative where the image is smaller than the patch."""
        shape = self._cases[sample.case].shape
        size = (1,) * (3 - len(self._config.patch_size)) + self._config.patch_size
        low = [min(0, n - p) for n, p in zip(shape, size, strict=True)]
        high = [max(0, n - p) for n, p in zip(shape, size, strict=True)]
        corner = rng.integers(low, high, endpoint=True)
        points = self._foreground(sample.case) if sample.foreground else np.empty((0, 3), np.int32)
        if len(points):
            if self._config.spatial_dims == 2:  # slices with little foreground are as likely as others
                points = points[points[:, 0] == rng.choice(np.unique(points[:, 0]))]
            centre = points[rng.integers(len(points))]
            fits = np.asarray(shape) >= np.asarray(size)
            corner = np.where(fits, np.clip(centre - np.asarray(size) // 2, low, high), corner)
        return tuple(int(n) for n in corner)

    def _foreground(self, case: int) -> NDArray[np.int32]:
        """Possible centres (n, 3): voxels that any annotator marked, a random choice of them if they are many."""
        if case not in self._points:
            marked = np.argwhere(np.asarray(self._arrays[case].labels).any(axis=0))
            rng = np.random.default_rng((self._config.seed, 4, case))
            self._points[case] = rng.permutation(marked)[:FOREGROUND_POINTS].astype(np.int32)
        return self._points[case]


def first_who_drew(labels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask (A,) of one annotator: of the valid ones the first who marked anything in labels (A, *S).

    Where none did, the first valid one: nothing is what all of them say.
    """
    drawn = valid & labels.reshape(len(labels), -1).any(1)
    only = np.zeros_like(valid)
    only[(drawn if drawn.any() else valid).argmax()] = True
    return only


def crop_or_pad(array: NDArray[Any], start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """Return `array[:, start : start + size]` over its last three axes; what lies outside is 0."""
    result = np.zeros((array.shape[0], *size), array.dtype)
    source, target = [slice(None)], [slice(None)]
    for begin, length, available in zip(start, size, array.shape[1:], strict=True):
        low, high = max(0, begin), min(available, begin + length)
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    result[tuple(target)] = array[tuple(source)]
    return result
