import numpy as np
import pytest

from overread.metrics.densities import KEPT, MOST, intensity_distance, kernel_density, thinned


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


def test_a_weight_is_a_number_of_values():
    # Scott's width knows the weights: (sum w)^2 / sum w^2 values, and the deviation of such a sample
    n = 4**2 / (3**2 + 1)
    width = n ** (-1 / 5) * ((3 * 0.25**2 + 0.75**2) / 4 / (1 - 1 / n)) ** 0.5
    points = np.array([0.0, 0.4])
    kernels = np.exp(-0.5 * ((points[:, None] - np.array([0, 1])) / width) ** 2) / (width * (2 * np.pi) ** 0.5)
    found = kernel_density(np.array([0.0, 1.0]), points, np.array([3.0, 1.0]))
    assert found == pytest.approx(kernels @ np.array([0.75, 0.25]))


def test_few_values_stand_for_many():
    values = np.random.default_rng(0).permutation(np.arange(10 * KEPT))
    assert thinned(values).tolist() == list(range(5, 10 * KEPT, 10))
    assert thinned(np.array([[2, 1], [1, 3]])).tolist() == [1, 1, 2, 3] and thinned(np.zeros(0)).size == 0
    normal = np.random.default_rng(0).normal(size=3 * MOST)
    points = np.linspace(-3, 3, 50)
    all_of_them, few = kernel_density(normal, points), kernel_density(thinned(normal), points)
    assert all_of_them is not None and few is not None and np.abs(all_of_them - few).max() < 0.05


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0, 3.0], [1000.0, 1000.0 + 1e-8]])
def test_regions_without_a_density(values):
    assert kernel_density(np.array(values), np.zeros(2)) is None


def test_distance_by_hand():
    assert intensity_distance(np.array([0.0, 2.0]), np.array([1.0])) == pytest.approx(1)
    assert intensity_distance(np.array([5.0]), np.array([5.0, 5.0])) == 0
    assert intensity_distance(np.zeros(0), np.ones(3)) is None
    assert intensity_distance(np.ones(3), np.zeros(0)) is None
