import pytest

from overread.confidence.coverage import Correlation, CoveragePoint, correlation, coverage_curve


def test_curve_by_hand() -> None:
    points = coverage_curve([0.1, 0.9, 0.5, 0.7], [0.0, 1.0, 0.6, 0.8], shares=(10, 50, 75, 100))
    assert points == (
        CoveragePoint(coverage=10, n=1, dice=1.0),
        CoveragePoint(coverage=50, n=2, dice=0.9),
        CoveragePoint(coverage=75, n=3, dice=pytest.approx(0.8)),
        CoveragePoint(coverage=100, n=4, dice=pytest.approx(0.6)),
    )


def test_undefined_confidence_is_rejected_first() -> None:
    points = coverage_curve([None, 0.0], [1.0, 0.2], shares=(50, 100))
    assert [point.dice for point in points] == [pytest.approx(0.2), pytest.approx(0.6)]


def test_ties_do_not_depend_on_the_order_of_cases() -> None:
    one = coverage_curve([0.5, 0.5, 0.9], [0.0, 1.0, 0.7], shares=(60, 100))
    other = coverage_curve([0.9, 0.5, 0.5], [0.7, 1.0, 0.0], shares=(60, 100))
    assert one == other
    assert one[0] == CoveragePoint(coverage=60, n=2, dice=pytest.approx((0.7 + 0.5) / 2))


def test_ten_points_and_rounding_up() -> None:
    points = coverage_curve([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert [point.coverage for point in points] == list(range(10, 101, 10))
    assert [point.n for point in points] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_no_cases_no_points_and_unequal_lengths_raise() -> None:
    assert coverage_curve([], []) == ()
    with pytest.raises(ValueError, match="one value per case, but got 1 and 2"):
        coverage_curve([0.1], [0.1, 0.2])


def test_correlation_by_hand() -> None:
    # ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8
    found = correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    assert found.spearman == pytest.approx(0.8)
    assert found.pearson == pytest.approx(0.8)
    assert found.n == 4
    assert correlation([1.0, 2.0, 3.0], [1.0, 4.0, 9.0]).spearman == pytest.approx(1.0)


def test_undefined_confidences_are_left_out_and_n_says_so() -> None:
    assert correlation([None, 1.0, 2.0, 3.0], [9.0, 3.0, 2.0, 1.0]) == Correlation(
        pearson=pytest.approx(-1.0), spearman=pytest.approx(-1.0), n=3
    )


@pytest.mark.parametrize(
    ("confidence", "dice", "n"),
    [
        ([], [], 0),
        ([0.1, 0.2], [0.1, 0.2], 2),
        ([None, 0.1, 0.2], [0.3, 0.1, 0.2], 2),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], 3),
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], 3),
    ],
)
def test_correlation_that_is_not_defined(confidence: list[float | None], dice: list[float], n: int) -> None:
    assert correlation(confidence, dice) == Correlation(pearson=None, spearman=None, n=n)
