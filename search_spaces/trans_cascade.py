"""Space of TransCASCADE: units of the ResNet, depth of the Transformer, dropout, loss weights, optimiser.

Width and batch size come from the budget. The published depths were trained from ImageNet weights; from random ones a
short training gets further with fewer units and blocks, hence the second point. The paper's own optimiser (AdamW at a
constant 1e-4) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

UNITS: dict[str, list[int]] = {"3 4 9": [3, 4, 9], "2 2 2": [2, 2, 2]}
"""Of the hybrid's R50, and as many as a ResNet18 has in these stages."""

PUBLISHED = {
    "trans_cascade/units": "3 4 9",
    "trans_cascade/transformer_depth": 12,
    "trans_cascade/dropout": 0.1,
    "trans_cascade/ce": 0.3,
    "trans_cascade/dice": 0.7,
    "trans_cascade/recipe": "adamw one_cycle",
    "trans_cascade/learning_rate": 1e-3,
    "trans_cascade/flip": True,
    "trans_cascade/rotate_degrees": 15.0,
    "trans_cascade/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED
    | {"trans_cascade/units": "2 2 2", "trans_cascade/transformer_depth": 4, "trans_cascade/learning_rate": 3e-3},
    PUBLISHED | {"trans_cascade/ce": 1.0, "trans_cascade/dice": 1.0, "trans_cascade/intensity": 0.1},
    PUBLISHED | {"trans_cascade/recipe": "adamw constant", "trans_cascade/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one TransCASCADE."""
    options = {
        "width": trial.suggest_categorical("trans_cascade/width", list(context.widths["trans_cascade"])),
        "units": UNITS[trial.suggest_categorical("trans_cascade/units", list(UNITS))],
        "transformer_depth": trial.suggest_categorical("trans_cascade/transformer_depth", [2, 4, 8, 12]),
        "dropout": trial.suggest_categorical("trans_cascade/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": trial.suggest_categorical("trans_cascade/ce", [0.3, 1.0]),
        "dice": trial.suggest_categorical("trans_cascade/dice", [0.7, 1.0]),
    }
    name, schedule = trial.suggest_categorical("trans_cascade/recipe", ["adamw one_cycle", "adamw constant"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("trans_cascade/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("trans_cascade/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("trans_cascade/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("trans_cascade/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["trans_cascade"],
    }
