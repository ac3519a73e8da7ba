"""UGS-Net (Yang, Wang et al. 2023): Tables I-III and Figures 1, 7-9 for one data set with several annotators.

The paper trains for 200 epochs of batch 32 and tests on five folds; Dice, IoU and NSD are against Label_1, the first
annotator who drew something, and the mean and population deviation are over the means of the folds. Only images with
two drawn annotations count; others are read, but have none of these figures. Beyond the paper stand the Dice with every
annotator, with their STAPLE consensus and with the majority, the energy distance, and whether the confidence is right.

What the rows learn from is the paper's: comparators Label_1 alone, V1 and IUCM Label_1 with the union and intersection
of all drawn annotations, the others these annotations too. Validation curves are against the majority, for all rows.

Differs from the paper: images are prepared as every data set here: whole, scaled to 64 pixels and z-scored (CT clipped
to its 5th to 95th percentile). The paper cuts 50 x 50 pixels around a nodule and enlarges them to 64, in a lung window
of HU or, in the code of V1, three windows as channels; so nodules in larger patches are smaller here, and the input is
no window. Intensities inside HC and LC are those of the images as they came, HU where the files hold HU. All UGS rows
have the same filters (3 x 3 Gabor, true Otsu), so that ablations differ in what they are named for; V1's own are the
option `v1_compat`. The paper's text has SGD at 1e-5, which hardly trains: Adam at 1e-4 as in the code of V1, by cosines
that restart every 50 epochs as the rate of the paper does. `small` is what two CPU cores do in about an hour: a quarter
of the width, 64 pixels, 1,200 steps of batch 4 at a higher rate that falls by one cosine, attention to maps pooled by
2, and augmentation, which 26 images need and the paper does not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overread.records import AugmentConfig, OptimiserConfig
from overread.reproduction.paper import CROSS_ENTROPY, NO_AUGMENTATION, PAPERS, PRINTED, Paper, Protocol, Row, Size
from overread.reproduction.ugsnet_figures import pictures
from overread.reproduction.ugsnet_measures import NAME, measure, measure_lists
from overread.reproduction.ugsnet_tables import BACKBONE, FULL, TWO_LOSSES, V1, exhibits

PUBLISHED = {
    V1: "ugs_net_v1",
    "UGS-Phi_a": "ugs_net_phi_a",
    "UGS-Phi_b": "ugs_net_phi_b",
    TWO_LOSSES: "ugs_net_phi_ab",
    "UGS-IUCM": "ugs_net_iucm",
    FULL: "ugs_net",
}
"""Names of the paper's networks; V1 and its ablations have V1's filters there."""
ABLATIONS: Mapping[str, Mapping[str, bool]] = {
    V1: {"iucm": False, "phi_a": False, "phi_b": False},
    "UGS-Phi_a": {"iucm": False, "phi_a": True, "phi_b": False},
    "UGS-Phi_b": {"iucm": False, "phi_a": False, "phi_b": True},
    TWO_LOSSES: {"iucm": False, "phi_a": True, "phi_b": True},
    "UGS-IUCM": {"iucm": True, "phi_a": False, "phi_b": False},
    FULL: {"iucm": True, "phi_a": True, "phi_b": True},
}
COMPARATORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "FCN32s": ("fcn32s", {}),
    "U-Net": ("unet", {}),
    "R2U-Net": ("r2u_net", {}),
    "R2AU-Net": ("r2u_net", {"attention": True}),
    BACKBONE: ("attention_unet", {}),
    "Nested U-Net": ("unet_plus_plus", {}),
    "Channel U-Net": ("channel_unet", {}),
}
CORE = (BACKBONE, V1, TWO_LOSSES, FULL)
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=64,
        width=1.0,
        passes=200,
        batch_size=32,
        optimiser=OptimiserConfig(name="adam", learning_rate=1e-4, weight_decay=1e-4, schedule="cosine_restarts"),
        augment=NO_AUGMENTATION,
        losses=CROSS_ENTROPY,
        merge_labels=True,
        folds=5,
        cross_validated=True,
    ),
    "small": Protocol(
        max_side=64,
        width=0.25,
        options={"attention_pool": 2},
        steps=1200,
        batch_size=4,
        optimiser=OptimiserConfig(name="adam", learning_rate=1e-3, weight_decay=1e-4, schedule="cosine"),
        augment=AugmentConfig(flip=True, rotate_degrees=15.0, scale=0.1, intensity=0.1),
        losses=CROSS_ENTROPY,
        validations=5,
        merge_labels=True,
        folds=5,
        cross_validated=True,
    ),
}
ABOUT = (
    "Images are whole, scaled to 64 pixels and z-scored (CT clipped to its 5th to 95th percentile): the paper cuts "
    "50 x 50 pixels around a nodule, enlarges them to 64 and sees them in a window of HU. The paper names no "
    "augmentation and pools no maps of the self-attention. All UGS rows have the same filters, Gabor of 3 x 3 and true "
    "Otsu, so that they differ in what they are named for: V1 and its ablations have other filters than the published "
    "networks, whose parameters the last table tells. "
    "The validation curves and the Dice of the majority are against what most annotators marked, which is nothing in "
    "the cases that the first table counts: there an empty mask has a Dice of 1. All figures of the tables I to III "
    f"are against Label_1. {PRINTED}"
)
"""What makes our figures differ from the printed."""


def _rows() -> tuple[Row, ...]:
    plain = (
        Row(
            name=name,
            architecture=architecture,
            options=options,
            core=name in CORE,
            annotations="first",
            least_width=2,
        )
        for name, (architecture, options) in COMPARATORS.items()
    )
    ours = (
        Row(
            name=name,
            architecture="ugs_net",
            options=dict(options) | {"v1_compat": False},
            core=name in CORE,
            published=PUBLISHED[name],
        )
        for name, options in ABLATIONS.items()
    )
    return (*plain, *ours)


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="UGS-Net (Yang et al. 2023)",
        rows=_rows(),
        protocols=PROTOCOLS,
        measure=measure,
        measure_lists=measure_lists,
        exhibits=exhibits,
        pictures=pictures,
        by_baseline=True,
        about=ABOUT,
        measures=1,  # no Dice with an empty consensus
    ),
)
