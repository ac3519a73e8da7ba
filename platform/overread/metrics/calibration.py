"""Whether a confidence says how many agree: of the pixels with confidence c, do a share c of the annotators mark them?

Pixels are put into bins of equal width by their confidence; in each bin the mean confidence is held against the mean
share of annotators. The expected calibration error (ECE, Naeini et al. 2015, there of a label's probability) weights
the differences by the pixels of the bins. Nearly all pixels of an image are background that all agree on, which makes
it small for every network: beside it stands the mean over the bins that have pixels, each alike.
Sums of bins can be added over cases, whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overread.errors import UserError

Floats = NDArray[np.float64]
BINS = 10
ROUNDING = 1e-5
"""By how much a confidence may leave [0, 1]: sums of float32."""


@dataclass(frozen=True)
class CalibrationBins:
    """Sums over the pixels of each bin, (bins,) each; bin k holds the confidences from k / bins on, the last also 1."""

    count: Floats
    confidence: Floats
    share: Floats

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        """Return the sums over the pixels of both."""
        return CalibrationBins(self.count + other.count, self.confidence + other.confidence, self.share + other.share)

    def means(self) -> tuple[Floats, Floats]:
        """Return mean confidence and mean share of annotators of each bin; NaN where it has no pixel."""
        known = np.where(self.count > 0, self.count, np.nan)
        return self.confidence / known, self.share / known

    def expected_error(self) -> float | None:
        """Return the ECE, sum_k n_k |confidence_k - share_k| / n; None without any pixel."""
        total = self.count.sum()
        return float(np.abs(self.confidence - self.share).sum() / total) if total else None

    def mean_error(self) -> float | None:
        """Return the mean of |confidence_k - share_k| over the bins that have pixels; None without any."""
        confidence, share = self.means()
        return float(np.nanmean(np.abs(confidence - share))) if self.count.any() else None


def calibration_bins(confidence: NDArray[Any], share: NDArray[Any], bins: int = BINS) -> CalibrationBins:
    """Return the bins of an image: `confidence` (*S) and the `share` (*S) of its annotators who marked a pixel.

    >>> found = calibration_bins(np.array([0.1, 0.3, 0.9, 1.0]), np.array([0.0, 0.5, 1.0, 1.0]), 2)
    >>> found.count.tolist(), round(found.expected_error(), 6)
    ([2.0, 2.0], 0.05)
    """
    if confidence.shape != share.shape:
        raise UserError(f"confidence and share must have the same shape, but got {confidence.shape} and {share.shape}")
    for name, values in (("confidence", confidence), ("share", share)):
        if values.size and not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
            raise UserError(f"every {name} must be in 0..1, but got {values.min()}..{values.max()}")
    given = confidence.ravel().astype(np.float64).clip(0, 1)
    places = np.minimum((given * bins).astype(np.intp), bins - 1)
    count, total, marked = (
        np.bincount(places, weights=weights, minlength=bins).astype(np.float64)
        for weights in (np.ones(len(given)), given, share.ravel().astype(np.float64))
    )
    return CalibrationBins(count, total, marked)
