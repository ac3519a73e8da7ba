"""Space of UNeXt: the shift, loss weights, optimiser.

The paper's own training is half the cross-entropy plus Dice with Adam 1e-4 and a cosine; it and the training of
U-Netmer's comparison are the last points: short trainings do not get far with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "unext/shift": 5,
    "unext/ce": 0.5,
    "unext/dice": 1.0,
    "unext/recipe": "adamw one_cycle",
    "unext/learning_rate": 3e-3,
    "unext/flip": True,
    "unext/rotate_degrees": 0.0,
    "unext/intensity": 0.0,
}
COMPARED = {
    "unext/ce": 1.0,
    "unext/dice": 0.0,
    "unext/recipe": "adam halving",
    "unext/learning_rate": 1e-4,
    "unext/flip": False,
}
"""The training of the comparison in U-Netmer's Table III."""

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"unext/learning_rate": 1e-2, "unext/rotate_degrees": 15.0, "unext/intensity": 0.1},
    PUBLISHED | {"unext/recipe": "adam cosine", "unext/learning_rate": 1e-4},
    PUBLISHED | COMPARED,
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one UNeXt."""
    options: dict[str, Any] = {
        "width": trial.suggest_categorical("unext/width", list(context.widths["unext"])),
        "shift": trial.suggest_categorical("unext/shift", [1, 3, 5, 7]),
    }
    losses = {
        "ce": trial.suggest_categorical("unext/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("unext/dice", [0.0, 0.5, 1.0]),
    }
    recipes = ["adamw one_cycle", "adam cosine", "adam halving"]
    name, schedule = trial.suggest_categorical("unext/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("unext/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("unext/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("unext/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("unext/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["unext"],
    }
