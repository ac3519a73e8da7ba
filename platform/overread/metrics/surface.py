"""How far the surfaces of two masks are apart: normalised surface Dice and Hausdorff distance, 2-D and 3-D.

The surface of a mask are its voxels with a face neighbour outside of it; what lies outside of the image is outside.
Distances are between centres of voxels, in the unit of `spacing` (see `unit_of`), from the exact Euclidean transform.

Normalised surface Dice (NSD, Nikolov et al. 2018): the share of both surfaces that is within a tolerance of the other,
    (|{a in S_A: d(a, S_B) <= t}| + |{b in S_B: d(b, S_A) <= t}|) / (|S_A| + |S_B|).
Each surface voxel counts once, while DeepMind's program weights them by surface area: the same for cubic voxels up to
the voxels' edges. UGS-Net takes the mean of the two surfaces' shares instead.
HD95 has two forms. Of Metrics Reloaded (Maier-Hein et al. 2024), the default: the larger of the 95th percentiles of the
two directed distances. Of MedPy, and so of most tables (`pooled`): the 95th percentile of the distances of both
directions together.

Conventions (design section 5): both masks empty: NSD 1, HD95 0. One empty: NSD 0, and HD95 is undefined (None), as no
distance is to nothing: it is left out of means and of their n, so look at the NSD or the Dice beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from overread.errors import UserError
from overread.metrics.overlap import Ids, Mask, ratio
from overread.registry import Registry

Floats = NDArray[np.float64]
Spacing = Sequence[float] | None
PERCENTILE = 95.0
TOLERANCE = 1.0
"""Of the NSD where none is given, in the unit of the data: one mm, or one pixel or voxel."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of each surface voxel of a mask to the nearest one of the other; infinite if that has none."""

    first: Floats
    """(n,) of the first mask's surface voxels."""
    second: Floats
    """(m,) of the second mask's."""

    def dice(self, tolerance: float) -> float:
        """Return the share of all surface voxels within `tolerance` (in the unit of the spacing) of the other mask."""
        if tolerance < 0:
            raise UserError(f"the tolerance must not be negative, but got {tolerance}: give a distance")
        near = sum(int((distances <= tolerance).sum()) for distances in (self.first, self.second))
        return ratio(near, len(self.first) + len(self.second))

    def hausdorff(
        self, percentile: float = PERCENTILE, *, pooled: bool = False, transunet_compat: bool = False
    ) -> float | None:
        """Return the larger of both directed percentiles (100: the Hausdorff distance); both empty 0, one empty None.

        `pooled`: the percentile of both directions' distances together. Percentiles between two distances are
        interpolated linearly. `transunet_compat`: one empty gives 0, as in TransUNet's program, the best there is (see
        `dice_of_transunet`).
        """
        if not len(self.first) or not len(self.second):
            return 0.0 if transunet_compat or len(self.first) == len(self.second) else None
        if pooled:
            return float(np.percentile(np.concatenate([self.first, self.second]), percentile))
        return max(float(np.percentile(distances, percentile)) for distances in (self.first, self.second))


def unit_of(spacing: Spacing, axes: int) -> str:
    """Return what distances are in: mm where the spacing is known, else pixels or, with three axes, voxels."""
    if spacing is not None:
        return "mm"
    return "pixels" if axes == 2 else "voxels"


def common_unit(spacings: Iterable[Spacing], axes: int) -> str:
    """Return the one unit of the distances of several cases: mm only if the spacing of all of them is known."""
    known = list(spacings)
    return unit_of(known[0] if known and all(spacing is not None for spacing in known) else None, axes)


def surface(mask: Mask) -> Mask:
    """Return the voxels of a mask (*S) that have a face neighbour outside of it or of the image."""
    inside: Mask = ndimage.binary_erosion(mask, border_value=0)
    return mask & ~inside


def surface_distances(first: Mask, second: Mask, spacing: Spacing = None) -> SurfaceDistances:
    """Return the distances between the surfaces of two masks (*S) of equal shape.

    `spacing` is the size of a voxel along each axis; None: voxels are the unit.

    >>> square = np.zeros((4, 6), bool)
    >>> square[1:3, 1:3] = True
    >>> surface_distances(square, np.roll(square, 2, 1), (1.0, 0.5)).first.tolist()
    [1.0, 0.5, 1.0, 0.5]
    """
    if first.shape != second.shape:
        raise UserError(f"masks must have the same shape, but got {first.shape} and {second.shape}")
    if spacing is not None and (len(spacing) != first.ndim or not all(size > 0 for size in spacing)):
        raise UserError(f"the spacing must be {first.ndim} sizes above 0, but got {tuple(spacing)}: one for each axis")
    edges = [surface(np.asarray(mask, bool)) for mask in (first, second)]
    # The nearest surface voxel of a surface voxel lies in the box around both: all else need not be looked at.
    box = _box(edges[0] | edges[1])
    one, other = (edge[box] for edge in edges)
    return SurfaceDistances(_to(other, spacing)[one], _to(one, spacing)[other])


@dataclass(frozen=True)
class SurfaceMetric:
    """A named formula on `SurfaceDistances` and a tolerance."""

    name: str
    formula: Callable[[SurfaceDistances, float], float | None]
    description: str
    both_empty: float


@dataclass(frozen=True)
class CaseDistances:
    """A surface metric of one case."""

    per_class: tuple[float | None, ...]
    """By foreground class, index 0 = class id 1; None: absent in prediction and truth, or not defined."""
    mean: float | None
    """Over the classes where it is defined; None: some class is there, but it is defined for none."""


SURFACE_METRICS: Registry[SurfaceMetric] = Registry("metric")
for _metric in (
    SurfaceMetric("nsd", SurfaceDistances.dice, "share of both surfaces within the tolerance of the other", 1.0),
    SurfaceMetric(
        "hd95", lambda distances, _: distances.hausdorff(), "larger 95th percentile of both directed distances", 0.0
    ),
):
    SURFACE_METRICS.add(_metric.name, _metric)


def case_distances(
    prediction: Ids,
    truth: Ids,
    classes: int,
    metrics: Sequence[SurfaceMetric],
    tolerance: float = TOLERANCE,
    spacing: Spacing = None,
) -> dict[str, CaseDistances]:
    """Return surface metrics of one case by name, from masks of class ids (background included in `classes`).

    A class absent in both masks is left out of the mean, as it is of overlap metrics; so is one of undefined distance.
    """
    found: dict[str, list[float | None]] = {metric.name: [] for metric in metrics}
    present = False
    for k in range(1, classes):
        distances = surface_distances(prediction == k, truth == k, spacing)
        absent = not len(distances.first) and not len(distances.second)
        present = present or not absent
        for metric in metrics:
            found[metric.name].append(None if absent else metric.formula(distances, tolerance))

    def mean(metric: SurfaceMetric) -> float | None:
        defined = [value for value in found[metric.name] if value is not None]
        if defined:
            return sum(defined) / len(defined)
        return None if present else metric.both_empty

    return {metric.name: CaseDistances(tuple(found[metric.name]), mean(metric)) for metric in metrics}


def surface_dice(first: Mask, second: Mask, tolerance: float, spacing: Spacing = None) -> float:
    """Return the NSD of two masks (*S); the tolerance is in the unit of the spacing (None: voxels)."""
    return surface_distances(first, second, spacing).dice(tolerance)


def hausdorff_95(
    first: Mask, second: Mask, spacing: Spacing = None, *, pooled: bool = False, transunet_compat: bool = False
) -> float | None:
    """Return the HD95 of two masks (*S) in the unit of the spacing; None: voxels, as many papers' tables print it.

    `pooled` is the tables' form; `transunet_compat` is only to compare with tables made by TransUNet's program.
    """
    return surface_distances(first, second, spacing).hausdorff(pooled=pooled, transunet_compat=transunet_compat)


def dice_of_transunet(prediction: Mask, truth: Mask) -> float:
    """Return the Dice of two masks (*S) by the rule of TransUNet's program: only to compare with tables made by it.

    A structure that is found though it is not there counts as 1, and an empty prediction as 0, also where nothing is to
    be found; the HD95 beside is 0 in both cases.
    """
    found, there = np.asarray(prediction, bool), np.asarray(truth, bool)
    if not found.any():
        return 0.0
    return 2 * int((found & there).sum()) / int(found.sum() + there.sum()) if there.any() else 1.0


def batch_surface_dice_of_ugs_net(predictions: Mask, truths: Mask, tolerance: float = 1.0) -> float:
    """Return the NSD that UGS-Net's program computes: only to compare with its tables, no measure of surfaces.

    That program hands a whole batch (B, 1, H, W) to a function for volumes, as one 4-D mask. Erosion along the axis of
    length 1 leaves nothing, so every pixel of a mask is its surface, and the next image of the batch is one pixel away.
    So it depends on what else is in the batch, and is far above the NSD of contours: inner pixels nearly always agree.
    The mean of the shares of both masks; both empty 1, one empty 0.
    """
    if predictions.ndim != 4 or predictions.shape[1] != 1 or predictions.shape != truths.shape:
        shapes = f"{predictions.shape} and {truths.shape}"
        raise UserError(f"predictions and truths must be (B, 1, H, W) of equal shape, but got {shapes}")
    distances = surface_distances(predictions, truths)
    both = (distances.first, distances.second)
    if not all(map(len, both)):
        return float(len(both[0]) == len(both[1]))
    return float(np.mean([(found <= tolerance).mean() for found in both]))


def _box(marked: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds all that is marked; of nothing, the whole array."""
    return next(iter(ndimage.find_objects(marked.astype(np.int8))), (slice(None),) * marked.ndim)


def _to(marked: Mask, spacing: Spacing) -> Floats:
    """Return the distance (*S) of every voxel to the nearest marked one."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~marked, sampling=spacing), np.float64)
