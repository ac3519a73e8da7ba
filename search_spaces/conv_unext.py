"""Space of ConvUNeXt: levels, blocks of the main level, kernel, loss weights, optimiser; 2-D slices or 3-D patches.

The authors' code trains with AdamW 1.5e-3 and a polynomial decay. The training of U-Netmer's comparison is the last
point: short trainings do not get far with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "conv_unext/spatial_dims": 2,
    "conv_unext/depth": 5,
    "conv_unext/main_blocks": 3,
    "conv_unext/kernel": 7,
    "conv_unext/ce": 1.0,
    "conv_unext/dice": 1.0,
    "conv_unext/recipe": "adamw one_cycle",
    "conv_unext/learning_rate": 3e-3,
    "conv_unext/flip": True,
    "conv_unext/rotate_degrees": 0.0,
    "conv_unext/intensity": 0.0,
}
COMPARED = {
    "conv_unext/ce": 1.0,
    "conv_unext/dice": 0.0,
    "conv_unext/recipe": "adam halving",
    "conv_unext/learning_rate": 1e-4,
    "conv_unext/flip": False,
}
"""The training of the comparison in U-Netmer's Table III."""

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"conv_unext/kernel": 3, "conv_unext/rotate_degrees": 15.0, "conv_unext/intensity": 0.1},
    PUBLISHED | {"conv_unext/recipe": "adamw poly", "conv_unext/learning_rate": 1.5e-3},
    PUBLISHED | COMPARED,
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one ConvUNeXt."""
    dims = trial.suggest_categorical("conv_unext/spatial_dims", [2, 3]) if context.volumetric else 2
    options: dict[str, Any] = {
        "width": trial.suggest_categorical("conv_unext/width", list(context.widths["conv_unext"])),
        "depth": trial.suggest_categorical("conv_unext/depth", [4, 5]),
        "main_blocks": trial.suggest_categorical("conv_unext/main_blocks", [1, 3]),
        "kernel": trial.suggest_categorical("conv_unext/kernel", [3, 5, 7]),
    }
    losses = {
        "ce": trial.suggest_categorical("conv_unext/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("conv_unext/dice", [0.0, 0.5, 1.0]),
    }
    recipes = ["adamw one_cycle", "adamw poly", "adam halving"]
    name, schedule = trial.suggest_categorical("conv_unext/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("conv_unext/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("conv_unext/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("conv_unext/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("conv_unext/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["conv_unext"],
    }
