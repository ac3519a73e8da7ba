"""Space of UCTransNet: depth and heads of the channel transformer, dropout, loss weights, optimiser.

Width and batch size come from the budget. The paper's own training (cross-entropy and Dice in equal parts, Adam 1e-3,
cosine, flips and rotations) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "uctransnet/transformer_depth": 4,
    "uctransnet/heads": 4,
    "uctransnet/dropout": 0.1,
    "uctransnet/ce": 0.5,
    "uctransnet/dice": 0.5,
    "uctransnet/recipe": "adamw one_cycle",
    "uctransnet/learning_rate": 3e-3,
    "uctransnet/flip": True,
    "uctransnet/rotate_degrees": 15.0,
    "uctransnet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"uctransnet/transformer_depth": 2, "uctransnet/dropout": 0.0},  # cheaper: more steps in the same time
    PUBLISHED | {"uctransnet/ce": 1.0, "uctransnet/dice": 1.0, "uctransnet/intensity": 0.1},
    PUBLISHED | {"uctransnet/recipe": "adam cosine", "uctransnet/learning_rate": 1e-3},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one UCTransNet."""
    options = {
        "width": trial.suggest_categorical("uctransnet/width", list(context.widths["uctransnet"])),
        "transformer_depth": trial.suggest_categorical("uctransnet/transformer_depth", [1, 2, 4]),
        "heads": trial.suggest_categorical("uctransnet/heads", [1, 2, 4]),
        "dropout": trial.suggest_categorical("uctransnet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": trial.suggest_categorical("uctransnet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("uctransnet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("uctransnet/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("uctransnet/learning_rate", 3e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("uctransnet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("uctransnet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("uctransnet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["uctransnet"],
    }
