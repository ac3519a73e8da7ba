"""TPE sees the values of today, the journal keeps those of the end."""

import optuna
import pytest

from overread.search.sampler import STARTUP, make_sampler

TRIALS = 24


def tried(values: dict[int, float] | None) -> list[float]:
    """Return what is asked for after trials at 0/23 .. 23/23 whose told value rises with x."""
    today = None if values is None else (lambda: values)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(0, today))
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for number in range(TRIALS):
        x = number / (TRIALS - 1)
        study.add_trial(optuna.trial.create_trial(params={"x": x}, distributions=space, value=x))
    asked = []
    for _ in range(5):
        trial = study.ask()
        asked.append(trial.suggest_float("x", 0.0, 1.0))
        trial.suggest_float("own", 0.0, 1.0)  # no trial before had it: sampled alone
        assert study.trials[0].value == 0.0
    return asked


def test_tpe_goes_where_today_is_best() -> None:
    told = tried(None)
    assert min(told) > 0.5
    assert tried({}) == pytest.approx(told)  # nothing has changed
    falling = {number: -float(number) for number in range(TRIALS)}
    assert max(tried(falling)) < 0.5


def test_points_and_running_trials_stay() -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler(0, lambda: {0: -1.0}))
    for x in range(STARTUP):
        study.enqueue_trial({"x": x / 10, "y": 0.5})
    for x in range(STARTUP):
        trial = study.ask()
        assert trial.suggest_float("x", 0.0, 1.0) == x / 10
        trial.suggest_float("y", 0.0, 1.0)
        study.tell(trial, x / 10)
    first, second = study.ask(), study.ask()
    assert first.suggest_float("x", 0.0, 1.0) != second.suggest_float("x", 0.0, 1.0)
    assert study.trials[0].value == 0.0 and [trial.number for trial in (first, second)] == [6, 7]
