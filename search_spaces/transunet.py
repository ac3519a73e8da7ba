"""Space of TransUNet: what tokens are made of, units, skips, depth of the Transformer, dropout, loss, optimiser.

Width and batch size come from the budget. The published depths were trained from ImageNet weights; from random ones a
short training gets further with fewer units and blocks, hence the second point. The paper's own training (cross-entropy
and Dice in equal parts, SGD 0.01 with polynomial decay, flips and rotations) is the fourth point, its ViT-CUP the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

UNITS: dict[str, list[int]] = {"3 4 9": [3, 4, 9], "2 2 2": [2, 2, 2]}
"""Of the hybrid's R50, and as many as a ResNet18 has in these stages."""

PUBLISHED = {
    "transunet/encoder": "hybrid",
    "transunet/units": "3 4 9",
    "transunet/transformer_depth": 12,
    "transunet/skips": 3,
    "transunet/dropout": 0.1,
    "transunet/ce": 0.5,
    "transunet/dice": 0.5,
    "transunet/recipe": "adamw one_cycle",
    "transunet/learning_rate": 1e-3,
    "transunet/flip": True,
    "transunet/rotate_degrees": 15.0,
    "transunet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"transunet/units": "2 2 2", "transunet/transformer_depth": 4, "transunet/learning_rate": 3e-3},
    PUBLISHED | {"transunet/ce": 1.0, "transunet/dice": 1.0, "transunet/intensity": 0.1},
    PUBLISHED | {"transunet/recipe": "sgd poly", "transunet/learning_rate": 1e-2},
    PUBLISHED | {"transunet/encoder": "vit"},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one TransUNet."""
    encoder = trial.suggest_categorical("transunet/encoder", ["hybrid", "vit"])
    hybrid: dict[str, Any] = {"skips": 0}
    if encoder == "hybrid":
        hybrid = {
            "units": UNITS[trial.suggest_categorical("transunet/units", list(UNITS))],
            "skips": trial.suggest_categorical("transunet/skips", [0, 1, 3]),
        }
    options = hybrid | {
        "encoder": encoder,
        "width": trial.suggest_categorical("transunet/width", list(context.widths["transunet"])),
        "transformer_depth": trial.suggest_categorical("transunet/transformer_depth", [2, 4, 8, 12]),
        "dropout": trial.suggest_categorical("transunet/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {
        "ce": trial.suggest_categorical("transunet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("transunet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("transunet/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("transunet/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("transunet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("transunet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("transunet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["transunet"],
    }
