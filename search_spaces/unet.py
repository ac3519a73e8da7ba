"""Space of U-Net: depth, norm, upsampling, dropout, Dice weight, optimiser; 2-D slices or 3-D patches for volumes.

Width and batch size come from the budget. The learning rates are one-cycle peaks of short trainings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

BARE = {
    "unet/spatial_dims": 2,
    "unet/depth": 4,
    "unet/norm": "batch",
    "unet/upsample": "transposed",
    "unet/dropout": 0.0,
    "unet/ce": 1.0,
    "unet/dice": 1.0,
    "unet/schedule": "one_cycle",
    "unet/learning_rate": 3e-3,
    "unet/flip": True,
    "unet/rotate_degrees": 0.0,
    "unet/intensity": 0.0,
}
"""The bare baseline: flips, CE + Dice, AdamW one-cycle 3e-3."""

POINTS: list[dict[str, Any]] = [
    BARE,
    BARE | {"unet/depth": 5, "unet/flip": False},  # the published depth; a flip may turn anatomy into what is not there
    BARE | {"unet/depth": 5, "unet/dice": 0.0},  # and the published loss
    BARE | {"unet/learning_rate": 1e-2, "unet/rotate_degrees": 15.0, "unet/intensity": 0.1},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one U-Net."""
    dims = trial.suggest_categorical("unet/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "width": trial.suggest_categorical("unet/width", list(context.widths["unet"])),
        "depth": trial.suggest_int("unet/depth", 3, 5),
        "norm": trial.suggest_categorical("unet/norm", ["batch", "instance"]),
        "upsample": trial.suggest_categorical("unet/upsample", ["transposed", "linear"]),
        "dropout": trial.suggest_categorical("unet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": trial.suggest_categorical("unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("unet/dice", [0.0, 0.5, 1.0]),
    }
    optimiser = {
        "name": "adamw",
        "schedule": trial.suggest_categorical("unet/schedule", ["one_cycle", "cosine"]),
        "learning_rate": trial.suggest_float("unet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["unet"],
    }
