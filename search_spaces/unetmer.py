"""Space of U-Netmer: the backbone, the scale set, the Transformer, pools, loss weights, optimiser; 2-D as in the paper.

Sizes are padded to 2^pools * max(S): small images make large scales and four pools costly, hence three pools as an
alternative. The paper's own training (cross-entropy, Adam 1e-4 halved five times, no augmentation) is the last point:
in the minutes of a small search it undertrains, so the first points pair the published switches with Dice and a
one-cycle peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "unetmer/backbone": "unet",
    "unetmer/scales": "1|2|4",
    "unetmer/pools": 4,
    "unetmer/use_transformer": True,
    "unetmer/transformer_depth": 6,
    "unetmer/ce": 1.0,
    "unetmer/dice": 1.0,
    "unetmer/recipe": "adamw one_cycle",
    "unetmer/learning_rate": 3e-3,
    "unetmer/flip": False,
    "unetmer/rotate_degrees": 0.0,
    "unetmer/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED | {"unetmer/scales": "1|2"},  # best of the paper's Table I on three of seven data sets, and the cheapest
    PUBLISHED | {"unetmer/pools": 3, "unetmer/flip": True, "unetmer/rotate_degrees": 15.0},
    PUBLISHED | {"unetmer/scales": "1|2", "unetmer/backbone": "attention_unet"},
    PUBLISHED | {"unetmer/scales": "1|2", "unetmer/backbone": "unet_plus_plus"},  # U-Netmer++; its steps cost the most
    PUBLISHED | {"unetmer/scales": "1", "unetmer/flip": True},
    PUBLISHED | {"unetmer/scales": "1|2|4|8"},
    PUBLISHED | {"unetmer/dice": 0.0, "unetmer/recipe": "adam halving", "unetmer/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one U-Netmer."""
    scales = trial.suggest_categorical("unetmer/scales", ["1", "2", "4", "1|2", "1|4", "1|2|4", "1|2|4|8"])
    options: dict[str, Any] = {
        "backbone": trial.suggest_categorical("unetmer/backbone", ["unet", "attention_unet", "unet_plus_plus"]),
        "scales": [int(scale) for scale in scales.split("|")],
        "width": trial.suggest_categorical("unetmer/width", list(context.widths["unetmer"])),
        "pools": trial.suggest_categorical("unetmer/pools", [3, 4]),
        "use_transformer": trial.suggest_categorical("unetmer/use_transformer", [True, False]),
    }
    if options["use_transformer"]:
        options["transformer_depth"] = trial.suggest_categorical("unetmer/transformer_depth", [2, 4, 6])
    losses = {
        "ce": trial.suggest_categorical("unetmer/ce", [0.5, 1.0]),
        "dice": trial.suggest_categorical("unetmer/dice", [0.0, 0.5, 1.0]),
    }
    name, schedule = trial.suggest_categorical("unetmer/recipe", ["adamw one_cycle", "adam halving"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("unetmer/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("unetmer/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("unetmer/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("unetmer/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["unetmer"],
    }
