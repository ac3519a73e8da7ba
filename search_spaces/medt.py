"""Space of MedT: patches of the local branch, gates, loss weights, optimiser.

Width and batch size come from the budget; a narrower network than the published 16 channels has fewer groups, because
each needs two channels. Sizes are padded to 16 * patches: small images make 4 x 4 patches costly, hence 2 x 2 as an
alternative. The paper's own training (cross-entropy, Adam 1e-3 throughout, no augmentation) is the last point.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

GROUPS = 8
"""The published number."""

PUBLISHED = {
    "medt/patches": 4,
    "medt/frozen_gates": False,
    "medt/ce": 1.0,
    "medt/dice": 1.0,
    "medt/recipe": "adamw one_cycle",
    "medt/learning_rate": 3e-3,
    "medt/flip": False,
    "medt/rotate_degrees": 0.0,
    "medt/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED | {"medt/flip": True},
    PUBLISHED | {"medt/flip": True, "medt/patches": 2},
    PUBLISHED | {"medt/learning_rate": 1e-2, "medt/flip": True, "medt/rotate_degrees": 15.0},
    PUBLISHED | {"medt/dice": 0.0, "medt/recipe": "adam constant", "medt/learning_rate": 1e-3},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one MedT."""
    width = trial.suggest_categorical("medt/width", list(context.widths["medt"]))
    options = {
        "width": width,
        "groups": math.gcd(GROUPS, width // 2),
        "patches": trial.suggest_categorical("medt/patches", [2, 4]),
        "frozen_gates": trial.suggest_categorical("medt/frozen_gates", [False, True]),
    }
    losses = {
        "ce": trial.suggest_categorical("medt/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("medt/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("medt/recipe", ["adamw one_cycle", "adam constant"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("medt/learning_rate", 3e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("medt/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("medt/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("medt/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["medt"],
    }
