"""Space of DARR: levels, pieces of the puzzle, its weight and steps at test time, loss, optimiser; 2-D or 3-D patches.

Width and batch size come from the budget. Sides must be multiples of 2^(depth - 1) for each piece, so fewer levels suit
small images. The third point is V-Net alone, without the puzzle. A flip puts organs where they never are, so the points
with a puzzle have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "darr/spatial_dims": 2,
    "darr/depth": 5,
    "darr/pieces": 2,
    "darr/adaptation_steps": 1,
    "darr/jigsaw": 0.1,
    "darr/ce": 1.0,
    "darr/dice": 1.0,
    "darr/recipe": "adamw one_cycle",
    "darr/learning_rate": 1e-3,
    "darr/flip": False,
    "darr/rotate_degrees": 15.0,
    "darr/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"darr/depth": 4, "darr/adaptation_steps": 0, "darr/learning_rate": 3e-3},
    PUBLISHED | {"darr/pieces": 1, "darr/flip": True},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one DARR."""
    dims = trial.suggest_categorical("darr/spatial_dims", [2, 3]) if context.volumetric else 2
    options = {
        "pieces": trial.suggest_categorical("darr/pieces", [1, 2]),
        "width": trial.suggest_categorical("darr/width", list(context.widths["darr"])),
        "depth": trial.suggest_int("darr/depth", 3, 5),
    }
    puzzle: dict[str, float] = {}
    if options["pieces"] > 1:
        options["adaptation_steps"] = trial.suggest_categorical("darr/adaptation_steps", [0, 1])
        puzzle["jigsaw"] = trial.suggest_categorical("darr/jigsaw", [0.1, 0.3])
    losses = puzzle | {
        "ce": trial.suggest_categorical("darr/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("darr/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("darr/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("darr/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("darr/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("darr/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("darr/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["darr"],
    }
