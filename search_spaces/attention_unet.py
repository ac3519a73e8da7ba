"""Space of Attention U-Net: depth, loss, optimiser, augmentation; 2-D slices or 3-D patches for volumes.

Width and batch size come from the budget. The first points have the published depth with a loss and an optimiser that
suit a short training; the last two have the loss of Oktay et al. and that of the U-Netmer paper, with plain Adam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

LOSSES = {
    "ce + dice": {"ce": 1.0, "dice": 1.0},
    "dice": {"ce": 0.0, "dice": 1.0},
    "ce": {"ce": 1.0, "dice": 0.0},
}

PUBLISHED = {
    "attention_unet/spatial_dims": 2,
    "attention_unet/depth": 5,
    "attention_unet/loss": "ce + dice",
    "attention_unet/recipe": "adamw one_cycle",
    "attention_unet/learning_rate": 3e-3,
    "attention_unet/flip": True,
    "attention_unet/rotate_degrees": 0.0,
    "attention_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"attention_unet/depth": 4, "attention_unet/rotate_degrees": 15.0, "attention_unet/intensity": 0.1},
    PUBLISHED
    | {"attention_unet/loss": "dice", "attention_unet/recipe": "adam constant", "attention_unet/learning_rate": 1e-4},
    PUBLISHED
    | {
        "attention_unet/loss": "ce",
        "attention_unet/recipe": "adam halving",
        "attention_unet/learning_rate": 1e-4,
        "attention_unet/flip": False,
    },
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one Attention U-Net."""
    dims = trial.suggest_categorical("attention_unet/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "width": trial.suggest_categorical("attention_unet/width", list(context.widths["attention_unet"])),
        "depth": trial.suggest_int("attention_unet/depth", 3, 5),
    }
    losses = LOSSES[trial.suggest_categorical("attention_unet/loss", list(LOSSES))]
    recipes = ["adamw one_cycle", "adam constant", "adam halving"]
    name, schedule = trial.suggest_categorical("attention_unet/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("attention_unet/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("attention_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("attention_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("attention_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["attention_unet"],
    }
