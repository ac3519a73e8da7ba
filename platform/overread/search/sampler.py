"""What to try next: TPE over the trials at the values that they have today.

The value of a trial in the journal is that of its end. Gains change with the ensemble (`cluster.contribution`) and a
value that was told stays as it is in Optuna, so the sampler looks at a copy of the study, in memory, with the gains
that were measured last: else early trials, measured against one weak member, would stay the best for good.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

Values = Callable[[], Mapping[int, float]]
"""Gives today's values by the number of the trial, of those whose value has changed or may have."""
STARTUP = 6
"""Trials with a result before TPE chooses; points count."""


class RenewedSampler(optuna.samplers.TPESampler):
    """TPE on a study whose finished trials have the values that `values` gives."""

    def __init__(self, values: Values, **settings: Any) -> None:
        super().__init__(**settings)
        self._today = values
        self._copy: tuple[int, optuna.Study] | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the parameters that earlier trials had, too."""
        today = self._renewed(study, trial)
        return super().sample_relative(today, today.get_trials(deepcopy=False)[trial.number], search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter of its own."""
        return super().sample_independent(self._renewed(study, trial), trial, param_name, param_distribution)

    def _renewed(self, study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
        """Return the copy of the study for one new trial; numbers of trials are places in either."""
        if self._copy is None or self._copy[0] != trial.number:
            values = self._today()
            copy = optuna.create_study(direction=study.direction, sampler=self)
            for told in study.get_trials():
                if told.state == TrialState.COMPLETE and told.number in values:
                    told.value = values[told.number]
                copy.add_trial(told)
            self._copy = trial.number, copy
        return self._copy[1]


def make_sampler(seed: int, values: Values | None = None) -> optuna.samplers.BaseSampler:
    """Return the sampler of a search; with `values` trials count by today's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate and group
        settings: dict[str, Any] = {
            "seed": seed, "multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": STARTUP,
        }  # fmt: skip
        return optuna.samplers.TPESampler(**settings) if values is None else RenewedSampler(values, **settings)
