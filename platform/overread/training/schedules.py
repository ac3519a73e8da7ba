"""Learning-rate schedules as pure functions of the step: a resumed training needs no schedule state.

`one_cycle` (Smith 2018, arXiv:1803.09820) with cosine ramps, `halving` (U-Netmer: halved at every fifth), `cosine`
(Loshchilov 2016, arXiv:1608.03983, no restarts), `cosine_restarts` (the same with restarts after equal periods, four of
them: UGS-Net's 50 of 200 epochs), `poly` ((1 - t)^0.9, Chen 2016, arXiv:1606.00915), `constant`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

WARM_UP = 0.1
"""Share of a one-cycle training with a rising rate: small, as short trainings are many here."""
START = 1 / 25
"""First rate of one-cycle, relative to its peak."""
END = START / 1e4

PERIODS = 4
"""Of a cosine with restarts."""
ROUNDING = 1e-9
"""5 * (3 / 5) may fall just below 3."""


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Return the factor on the learning rate at `step` in 0..steps-1."""
    return SCHEDULES[schedule](step / max(steps - 1, 1) if schedule == "one_cycle" else step / steps)


def _one_cycle(t: float) -> float:
    if t < WARM_UP:
        return _cosine_ramp(START, 1.0, t / WARM_UP)
    return _cosine_ramp(1.0, END, (t - WARM_UP) / (1 - WARM_UP))


def _cosine_ramp(first: float, last: float, t: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * t))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one_cycle": _one_cycle,
    "halving": lambda t: float(0.5 ** math.floor(5 * t + ROUNDING)),
    "cosine": lambda t: _cosine_ramp(1.0, 0.0, t),
    "cosine_restarts": lambda t: _cosine_ramp(1.0, 0.0, (PERIODS * t + ROUNDING) % 1),
    "poly": lambda t: float((1 - t) ** 0.9),
    "constant": lambda t: 1.0,
}
"""Factor by the share t of the steps that are done, in 0..1."""
