"""Space of R50 U-Net and R50 Attention U-Net: gates, units of the ResNet, loss weights, optimiser.

Width and batch size come from the budget. The published ResNet was trained from ImageNet weights; from random ones a
short training gets further with fewer units, hence the third point. The paper's own training (cross-entropy and Dice
in equal parts, SGD 0.01 with polynomial decay) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

UNITS: dict[str, list[int]] = {"3 4 9": [3, 4, 9], "2 2 2": [2, 2, 2]}
"""Of the hybrid's R50, and as many as a ResNet18 has in these stages."""

PUBLISHED = {
    "r50_unet/units": "3 4 9",
    "r50_unet/gates": False,
    "r50_unet/ce": 0.5,
    "r50_unet/dice": 0.5,
    "r50_unet/recipe": "adamw one_cycle",
    "r50_unet/learning_rate": 1e-3,
    "r50_unet/flip": True,
    "r50_unet/rotate_degrees": 15.0,
    "r50_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"r50_unet/gates": True},
    PUBLISHED | {"r50_unet/units": "2 2 2", "r50_unet/learning_rate": 3e-3},
    PUBLISHED | {"r50_unet/recipe": "sgd poly", "r50_unet/learning_rate": 1e-2},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one R50 U-Net or R50 Attention U-Net."""
    options = {
        "width": trial.suggest_categorical("r50_unet/width", list(context.widths["r50_unet"])),
        "units": UNITS[trial.suggest_categorical("r50_unet/units", list(UNITS))],
        "gates": trial.suggest_categorical("r50_unet/gates", [False, True]),
    }
    losses = {
        "ce": trial.suggest_categorical("r50_unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("r50_unet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("r50_unet/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("r50_unet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("r50_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("r50_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("r50_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["r50_unet"],
    }
