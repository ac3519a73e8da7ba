"""Space of RA-UNet: depth, loss weights, optimiser; 2-D slices or 3-D patches for volumes.

Width and batch size come from the budget. Sizes are padded to 2^(depth - 1), 32 at the published depth: small images
and thin volumes have smaller depths as alternatives. The paper's own training (Dice, Adam 1e-3, lowered at plateaus;
here halved) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "ra_unet/spatial_dims": 2,
    "ra_unet/depth": 6,
    "ra_unet/ce": 1.0,
    "ra_unet/dice": 1.0,
    "ra_unet/recipe": "adamw one_cycle",
    "ra_unet/learning_rate": 3e-3,
    "ra_unet/flip": True,
    "ra_unet/rotate_degrees": 0.0,
    "ra_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"ra_unet/depth": 5},
    PUBLISHED | {"ra_unet/learning_rate": 1e-2, "ra_unet/rotate_degrees": 15.0, "ra_unet/intensity": 0.1},
    PUBLISHED | {"ra_unet/ce": 0.0, "ra_unet/recipe": "adam halving", "ra_unet/learning_rate": 1e-3},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one RA-UNet."""
    dims = trial.suggest_categorical("ra_unet/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "width": trial.suggest_categorical("ra_unet/width", list(context.widths["ra_unet"])),
        "depth": trial.suggest_int("ra_unet/depth", 4, 6),
    }
    losses = {
        "ce": trial.suggest_categorical("ra_unet/ce", [0.0, 0.5, 1.0]),
        "dice": trial.suggest_categorical("ra_unet/dice", [0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("ra_unet/recipe", ["adamw one_cycle", "adam halving"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("ra_unet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("ra_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("ra_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("ra_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["ra_unet"],
    }
