"""Space of Monte-Carlo dropout on the last layer: backbone, depth, rate, loss, optimiser, augmentation.

2-D slices or 3-D patches for volumes. Width and batch size come from the budget. The first point has the published
network and loss; the published 200 passes stand last, as they cost reading time in every validation and change the mean
little. The last point is the paper's own training (Adam 1e-4 halved five times, no augmentation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "mc_dropout/spatial_dims": 2,
    "mc_dropout/backbone": "unet",
    "mc_dropout/depth": 5,
    "mc_dropout/rate": 0.5,
    "mc_dropout/passes": 20,
    "mc_dropout/dice": 0.0,
    "mc_dropout/recipe": "adamw one_cycle",
    "mc_dropout/learning_rate": 3e-3,
    "mc_dropout/flip": False,
    "mc_dropout/rotate_degrees": 0.0,
    "mc_dropout/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"mc_dropout/depth": 4, "mc_dropout/dice": 1.0, "mc_dropout/flip": True},
    PUBLISHED | {"mc_dropout/depth": 4, "mc_dropout/dice": 1.0, "mc_dropout/rate": 0.2},
    PUBLISHED | {"mc_dropout/passes": 200, "mc_dropout/recipe": "adam halving", "mc_dropout/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one network with dropout."""
    dims = trial.suggest_categorical("mc_dropout/spatial_dims", [2, 3]) if context.volumetric else 2
    backbones = ["unet", "attention_unet", "unet_plus_plus"]
    options = {
        "backbone": trial.suggest_categorical("mc_dropout/backbone", backbones),
        "width": trial.suggest_categorical("mc_dropout/width", list(context.widths["mc_dropout"])),
        "backbone_options": {"depth": trial.suggest_int("mc_dropout/depth", 3, 5)},
        "rate": trial.suggest_categorical("mc_dropout/rate", [0.2, 0.5]),
        "passes": trial.suggest_categorical("mc_dropout/passes", [20, 200]),
    }
    losses = {"ce": 1.0, "dice": trial.suggest_categorical("mc_dropout/dice", [0.0, 0.5, 1.0])}
    name, schedule = trial.suggest_categorical("mc_dropout/recipe", ["adamw one_cycle", "adam halving"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("mc_dropout/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("mc_dropout/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("mc_dropout/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("mc_dropout/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["mc_dropout"],
    }
