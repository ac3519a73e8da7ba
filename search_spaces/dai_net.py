"""Space of DAI-Net: form, switches, fusion or backbone, teacher of the maps, losses, optimiser, augmentation.

`dai_net/maps` is the number of the teacher as they were given (`--teacher`, several are compared); without one there is
only a ViT with random weights, whose maps are edges rather than organs. Width and batch size come from the budget. The
first points have the published networks and loss (Dice of Eq. 4, `dice_all`) and augmentation (chance 1/2 a quarter
turn and a flip, else with 1/2 a rotation up to 20 degrees) with an optimiser that suits a short training; the last has
the paper's own (Adam 1e-4 with polynomial decay).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

RANDOM = {"vit": {"size": "tiny", "patch": 16, "depth": 2}, "image_size": 224}
"""The maps' source where no teacher is given."""
SWITCHES = [f"{code:04b}" for code in range(15, -1, -1)]
"""Skips of the maps' encoder, finest first, 1111 to 0000."""

PUBLISHED = {
    "dai_net/form": "dual",
    "dai_net/switches": "1111",
    "dai_net/fusion": "pooled",
    "dai_net/maps": 0,
    "dai_net/ce": 0.5,
    "dai_net/dice": 0.5,
    "dai_net/dice_form": "dice_all",
    "dai_net/recipe": "adamw one_cycle",
    "dai_net/learning_rate": 3e-3,
    "dai_net/turns": "quarter and flip",
    "dai_net/rotate_degrees": 20.0,
    "dai_net/intensity": 0.0,
}

POINTS: list[dict[str, Any]] = [
    PUBLISHED,
    PUBLISHED | {"dai_net/switches": "0111"},
    PUBLISHED | {"dai_net/form": "single", "dai_net/backbone": "unet"},
    PUBLISHED | {"dai_net/switches": "0000", "dai_net/fusion": "own_bottom", "dai_net/dice": 1.0},
    PUBLISHED | {"dai_net/recipe": "adam poly", "dai_net/learning_rate": 1e-4},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one DAI-Net."""
    teachers = list(context.teachers) or [RANDOM]
    form = trial.suggest_categorical("dai_net/form", ["dual", "single"])
    options: dict[str, Any] = {
        "form": form,
        "width": trial.suggest_categorical("dai_net/width", list(context.widths["dai_net"])),
        "attention": dict(teachers[trial.suggest_categorical("dai_net/maps", list(range(len(teachers))))]),
    }
    if form == "dual":
        switches = trial.suggest_categorical("dai_net/switches", SWITCHES)
        options["switches"] = [switch == "1" for switch in switches]
        options["fusion"] = trial.suggest_categorical("dai_net/fusion", ["pooled", "own_bottom"])
    else:
        backbones = ["unet", "attention_unet", "unet_plus_plus"]
        options["backbone"] = trial.suggest_categorical("dai_net/backbone", backbones)
    losses = {
        "ce": trial.suggest_categorical("dai_net/ce", [0.5, 1.0]),
        "dice": 0.0,
    }
    form_of_dice = trial.suggest_categorical("dai_net/dice_form", ["dice_all", "dice_squared", "dice"])
    losses[form_of_dice] = trial.suggest_categorical("dai_net/dice", [0.0, 0.5, 1.0])
    name, schedule = trial.suggest_categorical("dai_net/recipe", ["adamw one_cycle", "adam poly"]).split()
    optimiser = {
        "name": name,
        "schedule": schedule,
        "learning_rate": trial.suggest_float("dai_net/learning_rate", 1e-4, 1e-2, log=True),
    }
    turns = trial.suggest_categorical("dai_net/turns", ["quarter and flip", "flips", "none"])
    augment = {
        "flip": turns == "flips",
        "turn_and_flip": turns == "quarter and flip",
        "rotate_degrees": trial.suggest_categorical("dai_net/rotate_degrees", [0.0, 20.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("dai_net/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": losses,
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["dai_net"],
    }
