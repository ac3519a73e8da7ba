"""Space of Channel-UNet: depth, the grid of the spatial channel-wise convolutions, loss weights, optimiser; 2-D.

Width and batch size come from the budget; the kernels of a block have grid^4 weights whatever the width is, hence a
smaller grid as an alternative. The last point has cross-entropy alone with plain Adam, as UGS-Net's paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "channel_unet/depth": 5,
    "channel_unet/grid": 32,
    "channel_unet/ce": 1.0,
    "channel_unet/dice": 1.0,
    "channel_unet/recipe": "adamw one_cycle",
    "channel_unet/learning_rate": 3e-3,
    "channel_unet/flip": True,
    "channel_unet/rotate_degrees": 0.0,
    "channel_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"channel_unet/grid": 16},
    PUBLISHED | {"channel_unet/depth": 4, "channel_unet/rotate_degrees": 15.0, "channel_unet/intensity": 0.1},
    PUBLISHED
    | {
        "channel_unet/dice": 0.0,
        "channel_unet/recipe": "adam cosine",
        "channel_unet/learning_rate": 1e-4,
        "channel_unet/flip": False,
    },
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one Channel-UNet."""
    options = {
        "width": trial.suggest_categorical("channel_unet/width", list(context.widths["channel_unet"])),
        "depth": trial.suggest_int("channel_unet/depth", 3, 5),
        "grid": trial.suggest_categorical("channel_unet/grid", [16, 32]),
    }
    losses = {
        "ce": trial.suggest_categorical("channel_unet/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("channel_unet/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("channel_unet/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("channel_unet/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("channel_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("channel_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("channel_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["channel_unet"],
    }
