"""Space of MT-UNet: mixed Transformer modules per level, memories, loss weights, optimiser.

Width and batch size come from the budget. The published depth is two modules per level; a short training gets further
with one, hence the second point. The last has the paper's optimiser (Adam at a constant 1e-4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "mt_unet/depth": 2,
    "mt_unet/memory": 64,
    "mt_unet/ce": 0.5,
    "mt_unet/dice": 0.5,
    "mt_unet/recipe": "adamw one_cycle",
    "mt_unet/learning_rate": 1e-3,
    "mt_unet/flip": True,
    "mt_unet/rotate_degrees": 15.0,
    "mt_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"mt_unet/depth": 1, "mt_unet/learning_rate": 3e-3},
    PUBLISHED | {"mt_unet/ce": 1.0, "mt_unet/dice": 1.0, "mt_unet/intensity": 0.1},
    PUBLISHED | {"mt_unet/recipe": "adam constant", "mt_unet/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one MT-UNet."""
    options = {
        "width": trial.suggest_categorical("mt_unet/width", list(context.widths["mt_unet"])),
        "depths": [trial.suggest_categorical("mt_unet/depth", [1, 2])] * 3,
        "memory": trial.suggest_categorical("mt_unet/memory", [16, 64]),
    }
    losses = {
        "ce": trial.suggest_categorical("mt_unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("mt_unet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("mt_unet/recipe", ["adamw one_cycle", "adam constant"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("mt_unet/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("mt_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("mt_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("mt_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["mt_unet"],
    }
