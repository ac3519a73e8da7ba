"""Pictures of a case: a PNG for people, and the view of all readings for the review page."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.data.images import NativeImage
from overread.data.overlay import Panel, best_slice, panel_png
from overread.ensemble.predict import CaseReading
from overread.records import Preprocessing
from overread.review.views import PREDICTION, CaseView, case_view

SIDE = 200
"""Pixels of a panel's longer side, about."""


def case_picture(
    native: NativeImage, reading: CaseReading, truth: NDArray[Any] | None, preprocessing: Preprocessing
) -> bytes:
    """Return the PNG of one case: of a volume, the slice with most foreground in any reading or the truth."""
    possible, consensus = reading.possible_map(), reading.consensus_map()
    maps = [possible, consensus, reading.mask] + ([truth] if truth is not None else [])
    stack = [_slices(np.asarray(mask), preprocessing) for mask in maps]
    index = best_slice((stack[0] > 0) | (stack[-1] > 0))
    image = _slices(native.array[0], preprocessing)[index]
    classes = reading.relations.classes
    possible_2d, consensus_2d, mask_2d = (volume[index] for volume in stack[:3])
    panels: list[Panel] = [
        ("image", image, {}),
        ("prediction", image, _by_class(mask_2d, classes)),
        ("Possible and Consensus", image, {"possible": possible_2d, "consensus": consensus_2d}),
    ]
    if truth is not None:
        panels.append(("truth", image, _by_class(stack[3][index], classes)))
    return panel_png(panels, side=SIDE)


def reading_view(
    native: NativeImage, reading: CaseReading, truth: NDArray[Any] | None, preprocessing: Preprocessing
) -> CaseView:
    """Return what the review page may embed of one case: the prediction, the truth and the mask of each member."""
    relations = reading.relations
    members = ((name, relations.reading(index)) for index, name in enumerate(relations.names))
    foreground = reading.mask > 0
    for k in range(1, relations.classes):
        foreground |= reading.possible(k)
    if truth is not None:
        foreground |= truth > 0
    return case_view(
        native.array[0],
        chain([(PREDICTION, reading.mask)], members),
        foreground=foreground,
        slice_axis=preprocessing.slice_axis,
        truth=truth,
        affine=native.affine,
        spacing=native.spacing,
    )


def _by_class(mask: NDArray[Any], classes: int) -> dict[str, NDArray[Any]]:
    """Return a layer per foreground class, empty ones too: the colour of a layer is that of its place."""
    return {f"class {k}": mask == k for k in range(1, classes)}


def _slices(array: NDArray[Any], preprocessing: Preprocessing) -> NDArray[Any]:
    """Return a native array as slices (D, rows, columns), as the networks see them."""
    if preprocessing.slice_axis is None:
        return array[None]
    return np.moveaxis(array, preprocessing.slice_axis, 0)
