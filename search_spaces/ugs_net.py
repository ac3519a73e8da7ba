"""Space of UGS-Net: the backbone and its depth, the module and the losses of UGS-Net V1 and of UGS-Net, optimiser.

2-D as in the paper. Width and batch size come from the budget; self-attention over all pixels is most of a small
network's step, hence pooled keys as an alternative. With one annotator Phi and Label_1 are the same. The first points
are UGS-Net and its ablation without the IUCM with an optimiser that suits a short training; the last has
Adam 1e-4 and cosine, as the code of V1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "ugs_net/backbone": "attention_unet",
    "ugs_net/depth": 5,
    "ugs_net/iucm": True,
    "ugs_net/distance": "per_pixel",
    "ugs_net/attention_pool": 1,
    "ugs_net/phi_a": True,
    "ugs_net/phi_b": True,
    "ugs_net/mcm": 0.5,
    "ugs_net/recipe": "adamw one_cycle",
    "ugs_net/learning_rate": 3e-3,
    "ugs_net/flip": False,
    "ugs_net/rotate_degrees": 0.0,
    "ugs_net/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"ugs_net/iucm": False, "ugs_net/attention_pool": 2},
    PUBLISHED | {"ugs_net/depth": 4, "ugs_net/attention_pool": 2, "ugs_net/flip": True, "ugs_net/rotate_degrees": 15.0},
    PUBLISHED | {"ugs_net/iucm": False, "ugs_net/phi_a": False, "ugs_net/phi_b": False},  # UGS-Net V1
    PUBLISHED | {"ugs_net/backbone": "unet", "ugs_net/depth": 4},
    PUBLISHED | {"ugs_net/recipe": "adam cosine", "ugs_net/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one UGS-Net."""
    options: dict[str, Any] = {
        "backbone": trial.suggest_categorical("ugs_net/backbone", ["attention_unet", "unet", "unet_plus_plus"]),
        "width": trial.suggest_categorical("ugs_net/width", list(context.widths["ugs_net"])),
        "backbone_options": {"depth": trial.suggest_int("ugs_net/depth", 3, 5)},
        "iucm": trial.suggest_categorical("ugs_net/iucm", [True, False]),
        "phi_a": trial.suggest_categorical("ugs_net/phi_a", [True, False]),
        "phi_b": trial.suggest_categorical("ugs_net/phi_b", [True, False]),
        "attention_pool": trial.suggest_categorical("ugs_net/attention_pool", [1, 2, 4]),
    }
    if options["iucm"]:
        options["distance"] = trial.suggest_categorical("ugs_net/distance", ["per_pixel", "per_sample"])
    losses = {"mcm": trial.suggest_categorical("ugs_net/mcm", [0.25, 0.5, 1.0])}
    name, schedule = trial.suggest_categorical("ugs_net/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("ugs_net/learning_rate", 1e-4, 1e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("ugs_net/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("ugs_net/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("ugs_net/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["ugs_net"],
    }
