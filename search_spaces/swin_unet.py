"""Space of Swin-Unet: blocks per stage, side of the windows, loss weights, optimiser.

Width and batch size come from the budget. The published windows of 7 tokens fit images of 224 pixels; those of 4 and 8
divide the sides of smaller images, hence the second point. The paper's own training (0.4 cross-entropy + 0.6 Dice, SGD
0.05 with polynomial decay, from ImageNet weights) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "swin_unet/depth": 2,
    "swin_unet/window": 7,
    "swin_unet/ce": 0.4,
    "swin_unet/dice": 0.6,
    "swin_unet/recipe": "adamw one_cycle",
    "swin_unet/learning_rate": 1e-3,
    "swin_unet/flip": True,
    "swin_unet/rotate_degrees": 15.0,
    "swin_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"swin_unet/window": 4, "swin_unet/learning_rate": 3e-3},
    PUBLISHED | {"swin_unet/depth": 4, "swin_unet/window": 8, "swin_unet/intensity": 0.1},
    PUBLISHED | {"swin_unet/recipe": "sgd poly", "swin_unet/learning_rate": 5e-2},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one Swin-Unet."""
    options = {
        "width": trial.suggest_categorical("swin_unet/width", list(context.widths["swin_unet"])),
        "depths": [trial.suggest_categorical("swin_unet/depth", [2, 4])] * 4,
        "window": trial.suggest_categorical("swin_unet/window", [4, 7, 8]),
    }
    losses = {
        "ce": trial.suggest_categorical("swin_unet/ce", [0.4, 1.0]),
        "dice": trial.suggest_categorical("swin_unet/dice", [0.6, 1.0]),
    }
    name, schedule = trial.suggest_categorical("swin_unet/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("swin_unet/learning_rate", 3e-4, 5e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("swin_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("swin_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("swin_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["swin_unet"],
    }
