"""Space of R2U-Net: depth, recurrent steps, attention gates, loss weights, optimiser; slices or 3-D patches.

Width and batch size come from the budget. A step costs as much as its convolutions are repeated: one step more is a
third more. The last two points, R2U-Net and R2AU-Net, have cross-entropy alone with plain Adam, as UGS-Net's paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "r2u_net/spatial_dims": 2,
    "r2u_net/depth": 5,
    "r2u_net/steps": 2,
    "r2u_net/attention": False,
    "r2u_net/ce": 1.0,
    "r2u_net/dice": 1.0,
    "r2u_net/recipe": "adamw one_cycle",
    "r2u_net/learning_rate": 3e-3,
    "r2u_net/flip": True,
    "r2u_net/rotate_degrees": 0.0,
    "r2u_net/intensity": 0.0,
}
PLAIN = {"r2u_net/dice": 0.0, "r2u_net/recipe": "adam cosine", "r2u_net/learning_rate": 1e-4, "r2u_net/flip": False}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"r2u_net/attention": True},
    PUBLISHED | {"r2u_net/depth": 4, "r2u_net/steps": 1, "r2u_net/rotate_degrees": 15.0, "r2u_net/intensity": 0.1},
    PUBLISHED | PLAIN,
    PUBLISHED | PLAIN | {"r2u_net/attention": True},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one R2U-Net or R2AU-Net."""
    dims = trial.suggest_categorical("r2u_net/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "width": trial.suggest_categorical("r2u_net/width", list(context.widths["r2u_net"])),
        "depth": trial.suggest_int("r2u_net/depth", 3, 5),
        "steps": trial.suggest_int("r2u_net/steps", 1, 2),
        "attention": trial.suggest_categorical("r2u_net/attention", [False, True]),
    }
    losses = {
        "ce": trial.suggest_categorical("r2u_net/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("r2u_net/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("r2u_net/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("r2u_net/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("r2u_net/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("r2u_net/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("r2u_net/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["r2u_net"],
    }
