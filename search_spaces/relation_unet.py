"""Space of Relation U-Net: the backbone and its depth, the weight of the relation heads, optimiser, augmentation.

2-D slices or 3-D patches for volumes. Width and batch size come from the budget. The first point has the published
network and loss with an optimiser that suits a short training; the last has the paper's own training (Adam 1e-4 halved
five times, no augmentation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "relation_unet/spatial_dims": 2,
    "relation_unet/backbone": "unet",
    "relation_unet/depth": 5,
    "relation_unet/relations": 0.25,
    "relation_unet/recipe": "adamw one_cycle",
    "relation_unet/learning_rate": 3e-3,
    "relation_unet/flip": False,
    "relation_unet/rotate_degrees": 0.0,
    "relation_unet/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"relation_unet/depth": 4, "relation_unet/flip": True, "relation_unet/rotate_degrees": 15.0},
    PUBLISHED | {"relation_unet/depth": 4, "relation_unet/backbone": "attention_unet"},
    PUBLISHED | {"relation_unet/depth": 4, "relation_unet/backbone": "unet_plus_plus", "relation_unet/relations": 0.1},
    PUBLISHED | {"relation_unet/recipe": "adam halving", "relation_unet/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one Relation U-Net."""
    dims = trial.suggest_categorical("relation_unet/spatial_dims", [2, 3]) if context.volumetric else 2
    backbones = ["unet", "attention_unet", "unet_plus_plus"]
    options = {
        "backbone": trial.suggest_categorical("relation_unet/backbone", backbones),
        "width": trial.suggest_categorical("relation_unet/width", list(context.widths["relation_unet"])),
        "backbone_options": {"depth": trial.suggest_int("relation_unet/depth", 3, 5)},
    }
    relations = trial.suggest_categorical("relation_unet/relations", [0.1, 0.25])
    losses = {"s1": 0.25, "s2": 0.25, "possible": relations, "consensus": relations}
    name, schedule = trial.suggest_categorical("relation_unet/recipe", ["adamw one_cycle", "adam halving"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("relation_unet/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("relation_unet/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("relation_unet/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("relation_unet/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["relation_unet"],
    }
