"""Fusion of the members' probabilities: soft vote, majority and STAPLE, one member added at a time.

Each gives probabilities (K, *S) that sum to 1, whose argmax is the mask (ties go to the lower id). Members are never
stacked as float maps: a vote keeps one array, STAPLE one bit per voxel, foreground class and member beside the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from overread.metrics.staple import Codes, blocks, code_type, fit_trust

Probabilities = NDArray[np.float32]
Weight = float | Sequence[float] | NDArray[np.float32]


class Fusion(Protocol):
    """What `FUSIONS` make."""

    def add(self, probabilities: Probabilities, weight: float = 1.0) -> None:
        """Add one member's probabilities (K, *S)."""
        ...

    def mean(self) -> Probabilities:
        """Return the fused probabilities (K, *S)."""
        ...


class SoftVote:
    """Running weighted mean of probabilities (K, *S); holds one array, whatever the number of members.

    >>> vote = SoftVote()
    >>> vote.add(np.array([[0.8], [0.2]], np.float32))
    >>> vote.add(np.array([[0.2], [0.8]], np.float32), weight=2.0)
    >>> vote.mean().round(2).tolist()
    [[0.4000000059604645], [0.6000000238418579]]
    """

    def __init__(self) -> None:
        self._mean: Probabilities | None = None
        self._weight: float | NDArray[np.float32] = 0.0

    def add(self, probabilities: Probabilities, weight: Weight = 1.0) -> None:
        """Add one member's probabilities; shapes must be equal (`ValueError`).

        `weight` is above 0, or (K,) of at least 0 and not all 0: then the classes are weighted apart
        (`greedy.class_weights`) and the mean is divided by its sum over the classes.
        """
        if not (np.min(weight) >= 0 and np.max(weight) > 0):
            raise ValueError(f"the weight of a member must be above 0, but got {weight}")
        weight = weight if isinstance(weight, float | int) else np.asarray(weight, np.float32)
        self._weight = self._weight + weight
        if self._mean is None:
            self._mean = np.array(probabilities, dtype=np.float32)
            return
        if probabilities.shape != self._mean.shape:
            raise ValueError(f"members must read one shape {self._mean.shape}, but one gave {probabilities.shape}")
        # mean += w / W * (p - mean): stays a mean at any time and needs one array beside it, changed in place
        step = np.subtract(probabilities, self._mean, dtype=np.float32)
        share = np.asarray(weight / np.where(np.equal(self._weight, 0), 1, self._weight), dtype=np.float32)
        step *= share.reshape(share.shape + (1,) * (step.ndim - 1)) if share.ndim else share
        self._mean += step

    def mean(self) -> Probabilities:
        """Return the mean so far (K, *S) float32; `ValueError` before the first member."""
        if self._mean is None:
            raise _nothing()
        if np.ndim(self._weight) == 0:
            return self._mean
        apart = self._mean * np.greater(self._weight, 0).reshape(-1, *(1,) * (self._mean.ndim - 1))
        apart /= np.maximum(apart.sum(0), np.finfo(np.float32).tiny)
        return apart


class MajorityVote:
    """Share of the weight of the members whose mask has the class.

    >>> vote = MajorityVote()
    >>> for p in (0.9, 0.6, 0.1):
    ...     vote.add(np.array([[1 - p], [p]], np.float32))
    >>> vote.mean().round(2).tolist()
    [[0.33000001311302185], [0.6700000166893005]]
    """

    def __init__(self) -> None:
        self._shares: Probabilities | None = None
        self._weight = 0.0

    def add(self, probabilities: Probabilities, weight: float = 1.0) -> None:
        """Add one member's mask, the argmax of its probabilities; `weight` above 0, shapes equal (`ValueError`)."""
        if weight <= 0:
            raise ValueError(f"the weight of a member must be above 0, but got {weight}")
        if self._shares is None:
            self._shares = np.zeros(probabilities.shape, np.float32)
        if probabilities.shape != self._shares.shape:
            raise ValueError(f"members must read one shape {self._shares.shape}, but one gave {probabilities.shape}")
        ids = np.argmax(probabilities, axis=0)
        for k, shares in enumerate(self._shares):
            shares[ids == k] += np.float32(weight)
        self._weight += weight

    def mean(self) -> Probabilities:
        """Return the shares (K, *S) float32; `ValueError` before the first member."""
        if self._shares is None:
            raise _nothing()
        return self._shares / np.float32(self._weight)


class StapleVote:
    """STAPLE (`metrics.staple`) of the members' masks, each foreground class against the rest.

    The background is the chance that no class is there, prod (1 - p_k), and all are divided by their sum. Weights are
    not used: STAPLE finds how far each member can be trusted. Members' decisions are packed, unpacked, counted by
    pattern and looked up in blocks of voxels: in memory are the bits and the result (K, *S) and no other whole map.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._masks: list[NDArray[np.uint8]] = []
        """Bit-packed (K - 1, bytes) per member."""

    def add(self, probabilities: Probabilities, weight: float = 1.0) -> None:
        """Add one member's mask, the argmax of its probabilities; shapes must be equal (`ValueError`)."""
        if self._masks and probabilities.shape != self._shape:
            raise ValueError(f"members must read one shape {self._shape}, but one gave {probabilities.shape}")
        self._shape = probabilities.shape
        flat = probabilities.reshape(len(probabilities), -1)
        bits = np.empty((len(flat) - 1, -(-flat.shape[1] // 8)), np.uint8)
        for place in blocks(flat.shape[1]):
            ids = np.argmax(flat[:, place], axis=0)  # of whole maps it takes 16 bytes a voxel
            for k in range(1, len(flat)):
                bits[k - 1, place.start // 8 : -(-place.stop // 8)] = np.packbits(ids == k)
        self._masks.append(bits)

    def mean(self) -> Probabilities:
        """Return the probabilities (K, *S) float32; `ValueError` before the first member."""
        if not self._masks:
            raise _nothing()
        classes, voxels = self._shape[0], int(np.prod(self._shape[1:]))
        found = np.empty((classes, voxels), np.float32)
        found[0] = 1.0
        for k in range(1, classes):
            trust = fit_trust((self._codes(k, place) for place in blocks(voxels)), len(self._masks))
            for place in blocks(voxels):
                found[k, place] = trust.probabilities(self._codes(k, place))
                found[0, place] *= 1 - found[k, place]
        for place in blocks(voxels):
            found[:, place] /= np.maximum(found[:, place].sum(0), np.finfo(np.float32).tiny)
        return found.reshape(self._shape)

    def _codes(self, k: int, place: slice) -> Codes:
        """Return which members read class k, as bits, in a block of voxels."""
        kind, size = code_type(len(self._masks)), place.stop - place.start
        codes = np.zeros(size, kind)
        for bit, own in enumerate(self._masks):
            packed = own[k - 1, place.start // 8 : -(-place.stop // 8)]
            codes |= np.unpackbits(packed, count=size).astype(kind) << kind.type(bit)
        return codes


FUSIONS: dict[str, Callable[[], Fusion]] = {"soft": SoftVote, "majority": MajorityVote, "staple": StapleVote}
"""By name; the weighted vote is `soft` with weights."""


def _nothing() -> ValueError:
    return ValueError("a vote needs at least one member, but none was added")
