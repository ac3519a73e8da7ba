import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.calibration import calibration_bins


def test_errors_by_hand():
    # bin 0: 0 and 0.2 against 0 and 0, bin 2: 0.6 against 1, bin 4: 0.8 and 1 against 0.5 and 1
    found = calibration_bins(np.array([[0, 0.2, 0.6], [0.8, 1.0, 0]]), np.array([[0, 0, 1], [0.5, 1, 0]]), 4)
    assert found.count.tolist() == [3, 0, 1, 2]
    confidence, share = found.means()
    assert confidence == pytest.approx(np.array([0.2 / 3, np.nan, 0.6, 0.9]), nan_ok=True)
    assert share == pytest.approx(np.array([0, np.nan, 1, 0.75]), nan_ok=True)
    assert found.expected_error() == pytest.approx((0.2 + 0.4 + 0.3) / 6)
    assert found.mean_error() == pytest.approx((0.2 / 3 + 0.4 + 0.15) / 3)


def test_bins_add_over_cases():
    rng = np.random.default_rng(0)
    confidence, share = rng.random((2, 50))
    whole = calibration_bins(confidence, share)
    parts = calibration_bins(confidence[:20], share[:20]) + calibration_bins(confidence[20:], share[20:])
    assert np.allclose(whole.count, parts.count) and whole.expected_error() == pytest.approx(parts.expected_error())


def test_a_confidence_that_is_the_share_has_no_error():
    share = np.random.default_rng(0).integers(0, 8, (9, 9)) / 7
    assert calibration_bins(share, share).expected_error() == calibration_bins(share, share).mean_error() == 0


def test_nothing_and_rounding():
    nothing = calibration_bins(np.zeros(0), np.zeros(0))
    assert nothing.expected_error() is None and nothing.mean_error() is None
    assert calibration_bins(np.float32([1.000001, -1e-7]), np.zeros(2), 2).count.tolist() == [1, 1]


def test_bad_input_is_named():
    with pytest.raises(UserError, match="same shape"):
        calibration_bins(np.zeros(2), np.zeros(3))
    with pytest.raises(UserError, match=r"every confidence must be in 0\.\.1"):
        calibration_bins(np.array([0.5, 2.0]), np.zeros(2))
