"""How large the classes of a mask are, and of how many parts: what the Dice of a case depends on beside agreement.

Of a small finding few wrong voxels cost much Dice, and a mask in many parts is seldom right where truths have one.
Neither is a sign of doubt by itself: they enter the predicted Dice with either sign (`confidence.combined`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Extent:
    """Volume and parts of each class of a mask, by class id; the background counts nothing."""

    unit: str
    """`ml` of volumes and `mm2` of images of known spacing, else `voxels` or `pixels`."""
    volumes: tuple[float, ...]
    components: tuple[int, ...]


def mask_extent(mask: NDArray[np.integer[Any]], classes: int, spacing_mm: tuple[float, ...] | None) -> Extent:
    """Return the extent of class ids (*S); voxels that touch by a face are of one part.

    Args:
        mask: Class ids; an empty class has volume 0 and no part.
        classes: Number of classes with the background.
        spacing_mm: Voxel size along each axis; None: not known, so voxels are counted.

    >>> mask_extent(np.array([[1, 0, 1], [1, 0, 2]]), 3, None)
    Extent(unit='pixels', volumes=(0.0, 3.0, 1.0), components=(0, 2, 1))

    """
    known = spacing_mm is not None and mask.ndim in (2, 3)
    names = ("mm2", "ml") if known else ("pixels", "voxels")
    voxel = prod(spacing_mm) / (MM3_PER_ML if mask.ndim == 3 else 1.0) if known and spacing_mm else 1.0
    volumes, components = [0.0] * classes, [0] * classes
    # Each class in its own box: an array of part numbers takes four bytes a voxel.
    for k, box in enumerate(ndimage.find_objects(mask, max_label=classes - 1), start=1):
        if box is not None:
            own = mask[box] == k
            volumes[k] = float(np.count_nonzero(own)) * voxel
            components[k] = int(ndimage.label(own)[1])
    return Extent(names[mask.ndim > 2], tuple(volumes), tuple(components))
