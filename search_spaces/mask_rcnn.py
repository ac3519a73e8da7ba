"""Space of Mask R-CNN, 2+, 3+ and #: wiring of the pyramid, encoder, learning rate; 2-D, on data with instance files.

Width and batch size come from the budget. Anchors and thresholds are fixed: they follow from the size of the objects.
With 128 regions in the losses instead of the published 512 a step on a CPU takes two thirds of the time (256 pixels,
width 16); 500 proposals instead of 1000 are still many where an image holds some tens of objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from overread.search.space import SpaceContext

SHARP = {
    "mask_rcnn/wiring": "sharp",
    "mask_rcnn/encoder": "double_conv",
    "mask_rcnn/learning_rate": 1e-3,
    "mask_rcnn/rotate_degrees": 0.0,
    "mask_rcnn/intensity": 0.1,
}

POINTS: list[dict[str, Any]] = [
    SHARP,
    SHARP | {"mask_rcnn/wiring": "plain"},
    SHARP | {"mask_rcnn/wiring": "full_scale"},
    SHARP | {"mask_rcnn/wiring": "nested"},
    SHARP | {"mask_rcnn/encoder": "vgg16"},  # the published encoders
    SHARP | {"mask_rcnn/encoder": "resnet101"},
]


def suggest(trial: optuna.Trial, context: SpaceContext) -> dict[str, Any]:
    """Draw one Mask R-CNN."""
    options = {
        "width": trial.suggest_categorical("mask_rcnn/width", list(context.widths["mask_rcnn"])),
        "wiring": trial.suggest_categorical("mask_rcnn/wiring", ["plain", "nested", "full_scale", "sharp"]),
        "encoder": trial.suggest_categorical("mask_rcnn/encoder", ["double_conv", "vgg16", "resnet18", "resnet101"]),
        "region_samples": 128,
        "proposals": 500,
    }
    optimiser = {
        "name": "adamw",
        "schedule": "one_cycle",
        "learning_rate": trial.suggest_float("mask_rcnn/learning_rate", 3e-4, 3e-3, log=True),
    }
    augment = {
        "flip": True,
        "rotate_degrees": trial.suggest_categorical("mask_rcnn/rotate_degrees", [0.0, 15.0]),
        "scale": 0.0,
        "intensity": trial.suggest_categorical("mask_rcnn/intensity", [0.0, 0.1]),
    }
    return {
        "options": options,
        "losses": {},
        "optimiser": optimiser,
        "augment": augment,
        "spatial_dims": 2,
        "batch_size": context.batch_sizes["mask_rcnn"],
    }
