"""How intensities are spread in a region: Gaussian kernel densities, and how far two spreads are apart.

UGS-Net draws the densities of the region that all annotators mark (HC) and of what only some mark (LC), real beside
predicted. A picture has no figure, so the 1-Wasserstein distance of the two samples stands beside it: by how much the
intensities of one would have to be moved, in their unit, to give the other; unlike a density it needs no width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
MOST = 20_000
"""Values that a density is made of: of more, so many drawn at random."""
KEPT = 200
"""Values that stand for those of one region."""


def thinned(values: NDArray[Any], most: int = KEPT) -> Floats:
    """Return at most so many of the values (any shape), sorted: of as many equal parts of the ranks the middle ones.

    >>> thinned(np.array([[5, 1, 4], [0, 2, 3]]), most=3).tolist()
    [1.0, 3.0, 5.0]
    """
    ranked = np.sort(np.asarray(values, np.float64), axis=None)
    if len(ranked) <= most:
        return ranked
    return ranked[((np.arange(most) + 0.5) * len(ranked) / most).astype(np.intp)]


def kernel_density(
    values: NDArray[Any], points: NDArray[Any], weights: NDArray[np.floating[Any]] | None = None
) -> Floats | None:
    """Return the density (n,) of values (any shape) at points (n,), of the bandwidth of Scott's rule (SciPy's default).

    `weights` say how many each value stands for (of the shape of values; None: one). None where there is no density: no
    value, one value, or all of them equal.
    """
    sample = np.asarray(values, np.float64).ravel()
    shares = None if weights is None else np.asarray(weights, np.float64).ravel()
    if len(sample) > MOST:
        chosen = np.random.default_rng(0).choice(len(sample), MOST, replace=False)
        sample, shares = sample[chosen], None if shares is None else shares[chosen]
    # rounding gives equal values a tiny spread, whose density would be a needle
    if len(sample) < 2 or np.ptp(sample) <= 1e-9 * max(1e-30, float(np.abs(sample).max())):
        return None
    return np.asarray(stats.gaussian_kde(sample, weights=shares)(np.asarray(points, np.float64).ravel()), np.float64)


def intensity_distance(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Return the 1-Wasserstein distance of two sets of values, in their unit; None if one of them is empty.

    >>> intensity_distance(np.array([0.0, 1.0]), np.array([2.0, 3.0, 2.0, 3.0]))
    2.0
    """
    if not first.size or not second.size:
        return None
    return float(stats.wasserstein_distance(np.ravel(first), np.ravel(second)))
