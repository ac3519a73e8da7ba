"""Space of ENet: dropout, loss weights, optimiser.

Width and batch size come from the budget. The paper's own optimiser (Adam 5e-4, weight decay 2e-4) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "enet/dropout": 0.1,
    "enet/dice": 0.0,
    "enet/recipe": "adamw one_cycle",
    "enet/learning_rate": 3e-3,
    "enet/weight_decay": 2e-4,
    "enet/flip": True,
    "enet/rotate_degrees": 0.0,
    "enet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"enet/dice": 1.0, "enet/dropout": 0.0},  # so small a network hardly overfits
    PUBLISHED | {"enet/dice": 1.0, "enet/rotate_degrees": 15.0, "enet/intensity": 0.1},
    PUBLISHED | {"enet/recipe": "adam constant", "enet/learning_rate": 5e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one ENet."""
    options = {
        "width": trial.suggest_categorical("enet/width", list(context.widths["enet"])),
        "dropout": trial.suggest_categorical("enet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {"ce": 1.0, "dice": trial.suggest_categorical("enet/dice", [0.0, 0.5, 1.0])}
    name, schedule = trial.suggest_categorical("enet/recipe", ["adamw one_cycle", "adam constant"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("enet/learning_rate", 3e-4, 3e-2, log=True),
        "weight_decay": trial.suggest_categorical("enet/weight_decay", [0.0, 2e-4]),
    }
    augment = {
        "flip": trial.suggest_categorical("enet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("enet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("enet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["enet"],
    }
