"""Space of ResUnet: levels, norm, shortcuts, upsampling, loss weights, optimiser; 2-D slices or 3-D patches.

The second point has the paper's own shortcuts and upsampling. The training of U-Netmer's comparison is the last point:
short trainings do not get far with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "res_unet/spatial_dims": 2,
    "res_unet/depth": 4,
    "res_unet/norm": "batch",
    "res_unet/shortcut_kernel": 3,
    "res_unet/upsample": "transposed",
    "res_unet/ce": 1.0,
    "res_unet/dice": 1.0,
    "res_unet/recipe": "adamw one_cycle",
    "res_unet/learning_rate": 3e-3,
    "res_unet/flip": True,
    "res_unet/rotate_degrees": 0.0,
    "res_unet/intensity": 0.0,
}
COMPARED = {
    "res_unet/ce": 1.0,
    "res_unet/dice": 0.0,
    "res_unet/recipe": "adam halving",
    "res_unet/learning_rate": 1e-4,
    "res_unet/flip": False,
}
"""The training of the comparison in U-Netmer's Table III."""

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"res_unet/shortcut_kernel": 1, "res_unet/upsample": "linear"},
    PUBLISHED | {"res_unet/depth": 5, "res_unet/rotate_degrees": 15.0, "res_unet/intensity": 0.1},
    PUBLISHED | COMPARED,
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one ResUnet."""
    dims = trial.suggest_categorical("res_unet/spatial_dims", [2, 3]) if context.volumetric else 2
    options: dict[str, Any] = {
        "width": trial.suggest_categorical("res_unet/width", list(context.widths["res_unet"])),
        "depth": trial.suggest_categorical("res_unet/depth", [3, 4, 5]),
        "norm": trial.suggest_categorical("res_unet/norm", ["batch", "instance"]),
        "shortcut_kernel": trial.suggest_categorical("res_unet/shortcut_kernel", [1, 3]),
        "upsample": trial.suggest_categorical("res_unet/upsample", ["transposed", "linear"]),
    }
    losses = {
        "ce": trial.suggest_categorical("res_unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("res_unet/dice", [0.0, 0.5, 1.0]),
    }
    recipes = ["adamw one_cycle", "adam halving"]
    name, schedule = trial.suggest_categorical("res_unet/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("res_unet/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("res_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("res_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("res_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["res_unet"],
    }
