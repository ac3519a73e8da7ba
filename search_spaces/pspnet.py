"""Space of PSPNet: the ResNet, the weight of the auxiliary head, dropout, loss weights, optimiser.

Width and batch size come from the budget. The paper's own training (cross-entropy, SGD 1e-2 with a polynomial
schedule, mirrors, sizes and rotations) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "pspnet/encoder": "resnet50",
    "pspnet/dropout": 0.1,
    "pspnet/auxiliary": 0.4,
    "pspnet/dice": 0.0,
    "pspnet/recipe": "adamw one_cycle",
    "pspnet/learning_rate": 3e-3,
    "pspnet/flip": True,
    "pspnet/rotate_degrees": 10.0,
    "pspnet/scale": 0.3,
    "pspnet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"pspnet/encoder": "resnet18", "pspnet/dice": 1.0},  # cheaper: more steps in the same time
    PUBLISHED | {"pspnet/dice": 1.0, "pspnet/scale": 0.1, "pspnet/intensity": 0.1},
    PUBLISHED | {"pspnet/recipe": "sgd poly", "pspnet/learning_rate": 1e-2},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one PSPNet."""
    options = {
        "width": trial.suggest_categorical("pspnet/width", list(context.widths["pspnet"])),
        "encoder": trial.suggest_categorical("pspnet/encoder", ["resnet18", "resnet50", "resnet101"]),
        "dropout": trial.suggest_categorical("pspnet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": 1.0,
        "dice": trial.suggest_categorical("pspnet/dice", [0.0, 0.5, 1.0]),
        "auxiliary": trial.suggest_categorical("pspnet/auxiliary", [0.0, 0.4]),
    }
    name, schedule = trial.suggest_categorical("pspnet/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("pspnet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("pspnet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("pspnet/rotate_degrees", [0.0, 10.0]),
        "scale": trial.suggest_categorical("pspnet/scale", [0.0, 0.1, 0.3]),
        "intensity": trial.suggest_categorical("pspnet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["pspnet"],
    }
