"""Relations over a set of readings of one case: the one module of Possible, Consensus and agreement.

Per foreground class k, over the n masks added so far:
  Possible P = union, Consensus Q = intersection, relation confidence C = Dice(P, Q) = 2|Q| / (|P| + |Q|), as Q is in P;
  pairwise Dice = mean Dice over all n(n-1)/2 pairs (Zenk et al. 2024, doi:10.1016/j.media.2024.103392).
For n = 2, |P| + |Q| = |A| + |B|, so C = Dice(A, B): U-Netmer's C_ij, Relation U-Net's C and this are one function.

Memory: one bit per voxel, foreground class and reading, and as much once for each of P and Q.
A score is None where it says nothing: fewer than two readings, or the class in none of them.
"""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError
from overread.metrics.overlap import Ids, Mask, ratio

Bits = NDArray[np.uint8]


class Relations:
    """Readings of one case, added one at a time.

    >>> relations = Relations((4,), classes=2)
    >>> relations.add(np.array([1, 1, 0, 0]))
    >>> relations.add(np.array([0, 1, 1, 0]))
    >>> relations.relation_confidence(1), relations.pairwise_dice(1)
    (0.5, 0.5)
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """Start with no reading; `shape` is the case's own grid, `classes` counts the background."""
        self.shape = tuple(shape)
        self.classes = classes
        self.names: list[str] = []
        self._voxels = prod(self.shape)
        width = -(-self._voxels // 8)
        self._masks: list[Bits] = []
        self._union: Bits = np.zeros((classes - 1, width), np.uint8)
        self._intersection: Bits = np.zeros((classes - 1, width), np.uint8)

    @property
    def n(self) -> int:
        """Number of readings added."""
        return len(self._masks)

    def add(self, mask: Ids, name: str = "") -> None:
        """Add one reading: class ids in the case's own grid, or one bool mask per foreground class (K - 1, *S).

        Masks may overlap, as sigmoid maps do. Another shape or an unknown id raises `UserError`.
        """
        bits = self._pack(mask)
        self._intersection = self._intersection & bits if self._masks else bits.copy()
        self._union |= bits
        self._masks.append(bits)
        self.names.append(name)

    def _pack(self, mask: Ids) -> Bits:
        """Return (K - 1, bytes)."""
        if mask.dtype == np.bool_ and mask.shape == (self.classes - 1, *self.shape):
            return np.packbits(mask.reshape(len(mask), -1), axis=1)
        if mask.shape != self.shape:
            raise UserError(f"a reading must have the shape {self.shape} of its case, but got {mask.shape}")
        if mask.size and not (mask.min() >= 0 and mask.max() < self.classes):
            raise UserError(f"a reading must hold ids in 0..{self.classes - 1}, but got {mask.min()}..{mask.max()}")
        bits = np.zeros_like(self._union)
        for k in range(1, self.classes):
            bits[k - 1] = np.packbits(mask.ravel() == k)
        return bits

    def possible(self, k: int) -> Mask:
        """Return the union of class k over the readings, bool in the case's grid (all False without readings)."""
        return self._unpack(self._union[k - 1])

    def consensus(self, k: int) -> Mask:
        """Return the intersection of class k over the readings, bool in the case's grid."""
        return self._unpack(self._intersection[k - 1])

    def reading(self, index: int) -> NDArray[np.uint8]:
        """Return the class ids of one reading, as they were added; of overlapping masks the highest id."""
        mask = np.zeros(self.shape, np.uint8)
        for k in range(1, self.classes):
            mask[self._unpack(self._masks[index][k - 1])] = k
        return mask

    def empty(self, k: int | None = None) -> bool:
        """Return whether class k (None: every foreground class) is in none of the readings."""
        return not (self._union if k is None else self._union[k - 1]).any()

    def relation_confidence(self, k: int) -> float | None:
        """Return C of class k; compare it only between cases of equal n, as it falls with n at equal quality."""
        if self.n < 2 or self.empty(k):
            return None
        possible, consensus = _size(self._union[k - 1]), _size(self._intersection[k - 1])
        return 2 * consensus / (possible + consensus)

    def pairwise_dice(self, k: int) -> float | None:
        """Return the mean Dice of class k over all pairs; a pair of empty masks counts 1, one empty mask 0."""
        if self.n < 2 or self.empty(k):
            return None
        pairs = [self.pair_dice(i, j, k) for i, j in combinations(range(self.n), 2)]
        return sum(1.0 if pair is None else pair for pair in pairs) / len(pairs)

    def pair_dice(self, i: int, j: int, k: int) -> float | None:
        """Return the Dice of readings i and j for class k; None if the class is in neither."""
        first, second = self._masks[i][k - 1], self._masks[j][k - 1]
        total = _size(first) + _size(second)
        return ratio(2 * _size(first & second), total) if total else None

    def _unpack(self, bits: Bits) -> Mask:
        return np.unpackbits(bits, count=self._voxels).astype(np.bool_).reshape(self.shape)


def _size(bits: Bits) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))
