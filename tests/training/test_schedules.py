from __future__ import annotations

import pytest

from overread.training.schedules import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "step", "steps", "factor"),
    [
        ("constant", 7, 10, 1.0),
        ("halving", 0, 10, 1.0),
        ("halving", 1, 10, 1.0),
        ("halving", 2, 10, 0.5),
        ("halving", 6, 10, 0.125),  # 5 * 0.6 is just below 3 in floating point
        ("halving", 9, 10, 0.0625),
        ("cosine", 0, 8, 1.0),
        ("cosine", 4, 8, 0.5),
        ("cosine_restarts", 0, 80, 1.0),
        ("cosine_restarts", 10, 80, 0.5),
        ("cosine_restarts", 20, 80, 1.0),  # the second of four periods
        ("cosine_restarts", 60, 80, 1.0),
        ("cosine_restarts", 75, 80, (1 - 0.5**0.5) / 2),  # three quarters of the last
        ("poly", 0, 10, 1.0),
        ("poly", 5, 10, 0.5**0.9),
        ("one_cycle", 0, 11, 0.04),
        ("one_cycle", 1, 11, 1.0),  # the peak after 10 % of the way
        ("one_cycle", 10, 11, 0.04e-4),
        ("one_cycle", 0, 1, 0.04),
    ],
)
def test_factor(schedule: str, step: int, steps: int, factor: float) -> None:
    assert learning_rate_factor(schedule, step, steps) == pytest.approx(factor, rel=1e-8)


def test_one_cycle_rises_then_falls() -> None:
    factors = [learning_rate_factor("one_cycle", step, 101) for step in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
