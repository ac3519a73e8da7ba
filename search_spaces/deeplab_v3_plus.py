"""Space of DeepLabv3+: the ResNet and its output stride, dropout, loss weights, optimiser.

Width and batch size come from the budget. The paper's own training (cross-entropy, SGD 7e-3 with a polynomial
schedule, mirrors and sizes) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "deeplab_v3_plus/encoder": "resnet101",
    "deeplab_v3_plus/output_stride": 16,
    "deeplab_v3_plus/dropout": 0.1,
    "deeplab_v3_plus/dice": 0.0,
    "deeplab_v3_plus/recipe": "adamw one_cycle",
    "deeplab_v3_plus/learning_rate": 3e-3,
    "deeplab_v3_plus/flip": True,
    "deeplab_v3_plus/rotate_degrees": 0.0,
    "deeplab_v3_plus/scale": 0.3,
    "deeplab_v3_plus/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"deeplab_v3_plus/encoder": "resnet50", "deeplab_v3_plus/dice": 1.0},
    # cheaper, and finer: the images of a search are a quarter of the published side
    PUBLISHED
    | {
        "deeplab_v3_plus/encoder": "resnet18",
        "deeplab_v3_plus/output_stride": 8,
        "deeplab_v3_plus/dice": 1.0,
        "deeplab_v3_plus/scale": 0.1,
        "deeplab_v3_plus/intensity": 0.1,
    },
    PUBLISHED | {"deeplab_v3_plus/recipe": "sgd poly", "deeplab_v3_plus/learning_rate": 7e-3},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one DeepLabv3+."""
    encoders = ["resnet18", "resnet50", "resnet101"]
    options = {
        "width": trial.suggest_categorical("deeplab_v3_plus/width", list(context.widths["deeplab_v3_plus"])),
        "encoder": trial.suggest_categorical("deeplab_v3_plus/encoder", encoders),
        "output_stride": trial.suggest_categorical("deeplab_v3_plus/output_stride", [8, 16]),
        "dropout": trial.suggest_categorical("deeplab_v3_plus/dropout", [0.0, 0.1, 0.3]),
    }
    losses = {"ce": 1.0, "dice": trial.suggest_categorical("deeplab_v3_plus/dice", [0.0, 0.5, 1.0])}
    name, schedule = trial.suggest_categorical("deeplab_v3_plus/recipe", ["adamw one_cycle", "sgd poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("deeplab_v3_plus/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("deeplab_v3_plus/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("deeplab_v3_plus/rotate_degrees", [0.0, 15.0]),
        "scale": trial.suggest_categorical("deeplab_v3_plus/scale", [0.0, 0.1, 0.3]),
        "intensity": trial.suggest_categorical("deeplab_v3_plus/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["deeplab_v3_plus"],
    }
