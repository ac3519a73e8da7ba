"""Space of FCN-32s: dropout, loss weights, optimiser; 2-D.

Width and batch size come from the budget. Without norms and without pretrained weights it bears lower rates than the
others. The last point has cross-entropy alone with plain Adam, as UGS-Net's paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "fcn32s/dropout": 0.5,
    "fcn32s/ce": 1.0,
    "fcn32s/dice": 1.0,
    "fcn32s/recipe": "adamw one_cycle",
    "fcn32s/learning_rate": 1e-3,
    "fcn32s/flip": True,
    "fcn32s/rotate_degrees": 0.0,
    "fcn32s/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"fcn32s/dropout": 0.1, "fcn32s/rotate_degrees": 15.0, "fcn32s/intensity": 0.1},
    PUBLISHED
    | {"fcn32s/dice": 0.0, "fcn32s/recipe": "adam cosine", "fcn32s/learning_rate": 1e-4, "fcn32s/flip": False},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one FCN-32s."""
    options = {
        "width": trial.suggest_categorical("fcn32s/width", list(context.widths["fcn32s"])),
        "dropout": trial.suggest_categorical("fcn32s/dropout", [0.0, 0.1, 0.5]),
    }
    losses = {
        "ce": trial.suggest_categorical("fcn32s/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("fcn32s/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("fcn32s/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("fcn32s/learning_rate", 1e-4, 3e-3, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("fcn32s/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("fcn32s/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("fcn32s/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["fcn32s"],
    }
