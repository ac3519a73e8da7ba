"""Space of DUNet: depth, deformable levels, loss weights, optimiser.

Width and batch size come from the budget. A deformable unit costs about five plain ones, at full resolution the most:
the second point leaves that level plain. The paper's own training (cross-entropy, Adam 1e-3, lowered at plateaus; here
halved) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

DEFORMABLE: dict[str, list[bool]] = {
    "all levels": [],
    "all but the finest": [False],
    "all but the two finest": [False, False],
}

PUBLISHED = {
    "dunet/depth": 5,
    "dunet/deformable": "all levels",
    "dunet/ce": 1.0,
    "dunet/dice": 1.0,
    "dunet/recipe": "adamw one_cycle",
    "dunet/learning_rate": 3e-3,
    "dunet/flip": True,
    "dunet/rotate_degrees": 0.0,
    "dunet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"dunet/deformable": "all but the finest"},
    PUBLISHED | {"dunet/depth": 4, "dunet/rotate_degrees": 15.0, "dunet/intensity": 0.1},
    PUBLISHED | {"dunet/dice": 0.0, "dunet/recipe": "adam halving", "dunet/learning_rate": 1e-3, "dunet/flip": False},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one DUNet."""
    options = {
        "width": trial.suggest_categorical("dunet/width", list(context.widths["dunet"])),
        "depth": trial.suggest_int("dunet/depth", 3, 5),
        "deformable": DEFORMABLE[trial.suggest_categorical("dunet/deformable", list(DEFORMABLE))],
    }
    losses = {
        "ce": trial.suggest_categorical("dunet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("dunet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("dunet/recipe", ["adamw one_cycle", "adam halving"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("dunet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("dunet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("dunet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("dunet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["dunet"],
    }
