import numpy as np
import pytest

from overread.metrics.densities import MOST, intensity_distance, kernel_density


def test_density_of_two_values_by_hand():
    # Scott: the factor is n^(-1/5), the width that times the sample deviation: 2^(-1/5) * sqrt(2) for -1 and 1
    width = 2 ** (-1 / 5) * 2**0.5
    points = np.array([-1.0, 0.0, 2.0])
    kernels = np.exp(-0.5 * ((points[:, None] - np.array([-1, 1])) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
    assert kernel_density(np.array([[-1.0], [1.0]]), points) == pytest.approx(kernels.mean(1))


def test_density_integrates_to_one_even_of_very_many_values():
    points = np.linspace(-6, 6, 400)
    found = kernel_density(np.random.default_rng(0).normal(size=3 * MOST), points)
    assert found is not None and found.sum() * (points[1] - points[0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0, 3.0], [1000.0, 1000.0 + 1e-8]])
def test_regions_without_a_density(values):
    assert kernel_density(np.array(values), np.zeros(2)) is None


def test_distance_by_hand():
    assert intensity_distance(np.array([0.0, 2.0]), np.array([1.0])) == pytest.approx(1)
    assert intensity_distance(np.array([5.0]), np.array([5.0, 5.0])) == 0
    assert intensity_distance(np.zeros(0), np.ones(3)) is None
    assert intensity_distance(np.ones(3), np.zeros(0)) is None
