"""Space of U-Net++: depth, loss, optimiser, augmentation; 2-D slices or 3-D patches for volumes.

Width and batch size come from the budget. The first points have the published depth with a loss and an optimiser that
suit a short training; the last two have the loss of Zhou et al. and that of the U-Netmer paper, with plain Adam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

LOSSES = {
    "ce + dice": {"ce": 1.0, "dice": 1.0},
    "0.5 ce + dice": {"ce": 0.5, "dice": 1.0},
    "ce": {"ce": 1.0, "dice": 0.0},
}

PUBLISHED = {
    "unet_plus_plus/spatial_dims": 2,
    "unet_plus_plus/depth": 5,
    "unet_plus_plus/loss": "ce + dice",
    "unet_plus_plus/recipe": "adamw one_cycle",
    "unet_plus_plus/learning_rate": 3e-3,
    "unet_plus_plus/flip": True,
    "unet_plus_plus/rotate_degrees": 0.0,
    "unet_plus_plus/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"unet_plus_plus/depth": 4, "unet_plus_plus/rotate_degrees": 15.0, "unet_plus_plus/intensity": 0.1},
    PUBLISHED
    | {
        "unet_plus_plus/loss": "0.5 ce + dice",
        "unet_plus_plus/recipe": "adam constant",
        "unet_plus_plus/learning_rate": 3e-4,
    },
    PUBLISHED
    | {
        "unet_plus_plus/loss": "ce",
        "unet_plus_plus/recipe": "adam halving",
        "unet_plus_plus/learning_rate": 1e-4,
        "unet_plus_plus/flip": False,
    },
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one U-Net++."""
    dims = trial.suggest_categorical("unet_plus_plus/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "width": trial.suggest_categorical("unet_plus_plus/width", list(context.widths["unet_plus_plus"])),
        "depth": trial.suggest_int("unet_plus_plus/depth", 3, 5),
    }
    losses = LOSSES[trial.suggest_categorical("unet_plus_plus/loss", list(LOSSES))]
    recipes = ["adamw one_cycle", "adam constant", "adam halving"]
    name, schedule = trial.suggest_categorical("unet_plus_plus/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("unet_plus_plus/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("unet_plus_plus/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("unet_plus_plus/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("unet_plus_plus/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["unet_plus_plus"],
    }
