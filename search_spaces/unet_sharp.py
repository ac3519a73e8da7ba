"""Space of UNet# and its relatives: wiring, connection, trained level, deep supervision, guidance, losses, optimiser.

A switch is asked for only where it changes the network: level i has intra-connections from trained level i + 2 on.
Volumes may be trained on as slices or, with the V-Net encoder, as 3-D patches. The paper's own training (Adam 1e-3,
weight decay 1e-4, cosine) is the last point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

PUBLISHED = {
    "unet_sharp/spatial_dims": 2,
    "unet_sharp/wiring": "sharp",
    "unet_sharp/connection": "project",
    "unet_sharp/project_first": False,
    "unet_sharp/level": 4,
    "unet_sharp/deep_supervision": True,
    "unet_sharp/guidance": False,
    "unet_sharp/intra_0": True,
    "unet_sharp/intra_1": True,
    "unet_sharp/intra_2": True,
    "unet_sharp/focal": 0.5,
    "unet_sharp/dice": 1.0,
    "unet_sharp/lovasz": 0.5,
    "unet_sharp/recipe": "adamw one_cycle",
    "unet_sharp/learning_rate": 5e-3,
    "unet_sharp/flip": True,
    "unet_sharp/rotate_degrees": 15.0,
    "unet_sharp/intensity": 0.1,
}

POINTS: list[dict[str, Any]] = [
    # the same weights at about half the cost of a step; a flip may turn anatomy into what is not there
    PUBLISHED | {"unet_sharp/project_first": True, "unet_sharp/flip": False, "unet_sharp/rotate_degrees": 0.0},
    PUBLISHED | {"unet_sharp/project_first": True, "unet_sharp/level": 3},
    PUBLISHED,
    PUBLISHED | {"unet_sharp/connection": "direct"},
    PUBLISHED | {"unet_sharp/wiring": "nested"},
    PUBLISHED | {"unet_sharp/wiring": "full_scale"},
    PUBLISHED | {"unet_sharp/project_first": True, "unet_sharp/guidance": True, "unet_sharp/presence": 1.0},
    PUBLISHED | {"unet_sharp/recipe": "adam cosine", "unet_sharp/learning_rate": 1e-3},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one UNet# or relative."""
    dims = trial.suggest_categorical("unet_sharp/spatial_dims", [2, 3]) if context.volumetric else 2
    level = trial.suggest_int("unet_sharp/level", 1, 4)
    wiring = trial.suggest_categorical("unet_sharp/wiring", ["sharp", "nested", "full_scale", "plain"])
    options: dict[str, Any] = {
        "width": trial.suggest_categorical("unet_sharp/width", list(context.widths["unet_sharp"])),
        "wiring": wiring,
        "encoder": "v_net" if dims == 3 else "double_conv",
        "level": level,
        "inference": "deepest",  # the mean of all heads is a free axis, evaluated as the variant `accurate`
        "deep_supervision": trial.suggest_categorical("unet_sharp/deep_supervision", [True, False]),
        "guidance": trial.suggest_categorical("unet_sharp/guidance", [False, True]),
    }
    if wiring == "sharp" and level >= 2:
        rows = range(level - 1)
        intra = [trial.suggest_categorical(f"unet_sharp/intra_{row}", [True, False]) for row in rows]
        options["intra"] = [*intra, True, True][:3]
        options["connection"] = trial.suggest_categorical("unet_sharp/connection", ["project", "direct"])
        if options["connection"] == "project":
            options["project_first"] = trial.suggest_categorical("unet_sharp/project_first", [False, True])
    losses = {
        "focal": trial.suggest_categorical("unet_sharp/focal", [0.0, 0.5, 1.0]),
        "dice": trial.suggest_categorical("unet_sharp/dice", [0.5, 1.0]),
        "lovasz": trial.suggest_categorical("unet_sharp/lovasz", [0.0, 0.5, 1.0]),
    }
    if options["guidance"]:
        losses["presence"] = trial.suggest_categorical("unet_sharp/presence", [0.3, 1.0])
    name, schedule = trial.suggest_categorical("unet_sharp/recipe", ["adamw one_cycle", "adam cosine"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("unet_sharp/learning_rate", 3e-4, 3e-2, log=True),
    }
    augment = {
        "flip": trial.suggest_categorical("unet_sharp/flip", [True, False]),
        "rotate_degrees": trial.suggest_categorical("unet_sharp/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("unet_sharp/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": dims,
        # a patch of a volume holds as many voxels as many slices
        "batch_size": 2 if dims == 3 else context.batch_sizes["unet_sharp"],
    }
