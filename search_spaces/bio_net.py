"""Space of BiO-Net: iterations, integration of their outputs, levels, norms of the bottom, loss weights, optimiser.

Every iteration costs a whole U-Net: fewer of them are the cheap alternatives.
The training of U-Netmer's comparison is the last point: short trainings do not get far with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "bio_net/depth": 4,
    "bio_net/iterations": 3,
    "bio_net/integrate": True,
    "bio_net/bottom_norms": "shared",
    "bio_net/ce": 1.0,
    "bio_net/dice": 1.0,
    "bio_net/recipe": "adamw one_cycle",
    "bio_net/learning_rate": 3e-3,
    "bio_net/flip": True,
    "bio_net/rotate_degrees": 0.0,
    "bio_net/intensity": 0.0,
}
COMPARED = {
    "bio_net/ce": 1.0,
    "bio_net/dice": 0.0,
    "bio_net/recipe": "adam halving",
    "bio_net/learning_rate": 1e-4,
    "bio_net/flip": False,
}
"""The training of the comparison in U-Netmer's Table III."""

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"bio_net/iterations": 2, "bio_net/integrate": False},  # the paper's smaller network
    PUBLISHED | {"bio_net/bottom_norms": "separate", "bio_net/rotate_degrees": 15.0, "bio_net/intensity": 0.1},
    PUBLISHED | {"bio_net/dice": 0.0, "bio_net/recipe": "adam cosine", "bio_net/learning_rate": 1e-2},  # the paper's
    PUBLISHED | COMPARED,
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one BiO-Net."""
    options: dict[str, Any] = {
        "width": trial.suggest_categorical("bio_net/width", list(context.widths["bio_net"])),
        "depth": trial.suggest_categorical("bio_net/depth", [3, 4]),
        "iterations": trial.suggest_categorical("bio_net/iterations", [1, 2, 3]),
    }
    if options["iterations"] > 1:
        options["integrate"] = trial.suggest_categorical("bio_net/integrate", [True, False])
        options["bottom_norms"] = trial.suggest_categorical("bio_net/bottom_norms", ["shared", "separate"])
    losses = {
        "ce": trial.suggest_categorical("bio_net/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("bio_net/dice", [0.0, 0.5, 1.0]),
    }
    recipes = ["adamw one_cycle", "adam cosine", "adam halving"]
    name, schedule = trial.suggest_categorical("bio_net/recipe", recipes).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("bio_net/learning_rate", 1e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("bio_net/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("bio_net/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("bio_net/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["bio_net"],
    }
