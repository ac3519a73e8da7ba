"""Segmentation ability of a layer (He, Feng, Grant, Ou 2023, Medical Image Analysis; "ProtoSeg" in U-Netmer).

Feature maps F (C, *s), resized to the mask's grid *S, the network's foreground probability p and an optional mask m of
valid voxels give two prototypes, and each voxel takes the nearer one:
    p+ = sum F p m / sum p m,  p- = sum F (1 - p) m / sum (1 - p) m   (1e-8 is added to the denominators),
    q = softmax(-|F - p-|^2, -|F - p+|^2), binary map = argmax q; ties are background.
SA of the layer = Dice of its binary map with a reference: the truth, or without one the network's own segmentation.
Never is a map of all channels enlarged: |F - p-|^2 - |F - p+|^2 = sum_c (p+ - p-)(2 F - p+ - p-) is linear in F, and so
is resizing, so that the prototypes come from the probabilities brought to *s (by the transposed matrices), and the
difference of the distances is resized as one channel. NumPy and SciPy, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from overread.data.preprocess import resize_matrix
from overread.metrics.overlap import Counts, Mask, class_counts, dice

Map = NDArray[np.float64]
EPSILON = 1e-8
SAME = 1e-6
"""Prototypes that differ by less than this share in a channel differ by rounding: features are float32."""
BLOCK = 1 << 20
"""Feature values that are held in float64 at once."""
FLOOR = 1e-7
"""Probability below which float32 cannot tell 1 - p from 1."""


def margin(features: NDArray[Any], foreground: NDArray[Any], valid: Mask | None = None) -> Map:
    """Return |F - p-|^2 - |F - p+|^2 (*S), the log-odds of q for the foreground.

    `features` (C, *s) is of any resolution, `foreground` p (*S) and `valid` m (*S) are of the mask's grid. Channels
    that are constant, and all channels where p is, tell nothing apart and give 0.
    """
    inside = foreground.astype(np.float64)
    outside = 1 - inside
    if valid is not None:
        inside, outside = inside * valid, outside * valid
    small, large = features.shape[1:], foreground.shape
    inside_low, outside_low = (
        _resize(part, small, transposed=True).ravel() / (part.sum() + EPSILON) for part in (inside, outside)
    )
    flat = features.reshape(len(features), -1)
    difference = np.zeros(flat.shape[1])
    for block in np.array_split(flat, max(1, -(-flat.size // BLOCK))):
        values = block.astype(np.float64)
        positive, negative = values @ inside_low, values @ outside_low
        towards = positive - negative
        towards[np.abs(towards) <= SAME * (np.abs(positive) + np.abs(negative))] = 0
        difference += 2 * (towards @ values) - towards @ (positive + negative)
    return _resize(difference.reshape(small), large)


def soft_assignment(features: NDArray[Any], foreground: NDArray[Any], valid: Mask | None = None) -> Map:
    """Return q (*S), the share of the foreground prototype at each voxel: the segmentation ability map."""
    return expit(margin(features, foreground, valid))


def binary_map(features: NDArray[Any], foreground: NDArray[Any], valid: Mask | None = None) -> Mask:
    """Return the voxels (*S) whose features are nearer to the foreground prototype.

    >>> features, foreground = np.array([[0.0, 1.0, 7.0, 9.0]]), np.array([0.0, 0.0, 0.0, 1.0])
    >>> binary_map(features, foreground).tolist()
    [False, False, True, True]
    """
    return margin(features, foreground, valid) > 0


def centred_logits(probabilities: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logits (K, *S) of class probabilities, with a mean of 0 over the classes at each voxel.

    They are what a softmax network's head gave, less the part that the softmax ignores, and exist for every network.
    """
    logs = np.log(np.maximum(probabilities, FLOOR), dtype=np.float32)
    return logs - logs.mean(0)


class LayerDice:
    """Dice of the binary maps of each layer with a reference, over all slices (or windows) of one case.

    >>> found = LayerDice()
    >>> found.add("a", np.array([True, True]), np.array([True, False]))
    >>> found.add("a", np.array([False, True]), np.array([False, True]))
    >>> found.scores()
    [('a', 0.8)]
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}

    def add(self, layer: str, found: Mask, reference: Mask, valid: Mask | None = None) -> None:
        """Count the valid voxels of a slice."""
        if valid is not None:
            found, reference = found[valid], reference[valid]
        counts = class_counts(found, reference, 2)[1]
        self._counts[layer] = self._counts[layer] + counts if layer in self._counts else counts

    def scores(self) -> list[tuple[str, float]]:
        """Return (layer, Dice) in the order in which the layers came; both masks empty 1, one empty 0."""
        return [(layer, dice.formula(counts)) for layer, counts in self._counts.items()]


def _resize(array: Map, sizes: Sequence[int], *, transposed: bool = False) -> Map:
    """Resize all axes linearly to `sizes`, or apply the transpose of the resizing from `sizes` to the array's."""
    for axis, (have, size) in enumerate(zip(array.shape, sizes, strict=True)):
        if have != size:
            matrix = resize_matrix(size, have).T if transposed else resize_matrix(have, size)
            array = np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)
    return array
