"""Space of TransClaw U-Net: depth of the Transformer, dropout, loss weights, optimiser.

Width and batch size come from the budget. From random weights a short training gets further with fewer blocks than the
published twelve, hence the second point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "transclaw_unet/transformer_depth": 12,
    "transclaw_unet/dropout": 0.1,
    "transclaw_unet/ce": 0.5,
    "transclaw_unet/dice": 0.5,
    "transclaw_unet/recipe": "adamw one_cycle",
    "transclaw_unet/learning_rate": 1e-3,
    "transclaw_unet/flip": True,
    "transclaw_unet/rotate_degrees": 15.0,
    "transclaw_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"transclaw_unet/transformer_depth": 4, "transclaw_unet/learning_rate": 3e-3},
    PUBLISHED | {"transclaw_unet/ce": 1.0, "transclaw_unet/dice": 1.0, "transclaw_unet/intensity": 0.1},
    PUBLISHED | {"transclaw_unet/recipe": "sgd poly", "transclaw_unet/learning_rate": 1e-2},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one TransClaw U-Net."""
    options = {
        "width": trial.suggest_categorical("transclaw_unet/width", list(context.widths["transclaw_unet"])),
        "transformer_depth": trial.suggest_categorical("transclaw_unet/transformer_depth", [2, 4, 8, 12]),
        "dropout": trial.suggest_categorical("transclaw_unet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": trial.suggest_categorical("transclaw_unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("transclaw_unet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("transclaw_unet/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("transclaw_unet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("transclaw_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("transclaw_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("transclaw_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["transclaw_unet"],
    }
