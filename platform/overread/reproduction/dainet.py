"""DAI-Net (Yeganeh et al. 2023): Tables 1 to 3 and pictures of the attention maps for one data set.

Before the rows a DINO teacher is pretrained on the training images of the split (and the unlabelled ones of other
patients), and its maps are stored once for every case; rows that take maps wait for it. The paper trains each row for
up to 300 epochs of batch 16 by Adam at 1e-4 with polynomial decay, 0.5 cross-entropy + 0.5 Dice over all classes
(Eq. 4), with chance 1/2 a quarter turn and a flip, else with 1/2 a rotation up to 20 degrees, early stopping on
validation Dice, at 224 pixels; ours trains 300 passes to the end. It starts from DINO's ImageNet weights, ours from
random ones.
`small` keeps schedule, losses and augmentation and makes the rest fit two CPU cores: a quarter of the width, 128
pixels, a fixed number of steps at a higher rate, a ViT of 192 channels and 4 blocks with 3 heads on patches of 8,
taught in small batches with batch normalisation in DINO's head.
The paper's "U-Net†" is U-Net here. Its comparators have other losses in their own papers; here all have those of the
protocol, and DARR its puzzle beside. V-Net and DARR are 3-D in print (45,724,114 and 45,857,498 parameters for 2
classes); here they see slices, as all rows (9,389,177 and 9,521,533 for 9 classes). TransCASCADE has 12 parameters
fewer than its public program counts for grey images: that one's layer from grey to three channels is not built.
Counts at the published width are for 9 classes and the channels of each network's own paper.
`dainet-synapse` is the same on the abdominal CTs of BTCV, with that data set's window, organs and split.
Tables give class-mean Dice of whole cases, and of each structure; Synapse has Table 1, all other data Table 2. HD95 is
that of MedPy (both directions pooled), in mm over the cases whose spacing is known, and in voxels as the paper's "mm"
are: the program that it follows knows no spacing. That program also counts a structure as found where there is none: a
table of its own has this rule. In Table 1 "U-Net" is U-Net†; U-Net as others trained it is printed beside. The printed
55.92 of R50 AttnUNet's aorta does not fit its mean (83.67 would).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from overread.metrics.overlap import Ids, Mask, case_dice
from overread.metrics.summary import Summary
from overread.metrics.surface import dice_of_transunet, surface_distances, unit_of
from overread.records import AugmentConfig, OptimiserConfig, Prepared
from overread.reproduction.dainet_teacher import make_teacher, map_pictures, pretraining_curve, pretraining_tables
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import PAPERS, PRINTED, Before, Paper, Protocol, Row, Size
from overread.reproduction.printed import paper_dataset, printed, printed_text
from overread.reproduction.results import Findings, spread
from overread.reproduction.writing import NOT_TRAINED, difference, percent
from overread.review import figures
from overread.review.tables import Grid
from overread.review.words import NOTHING

NAME, SYNAPSE_NAME = "dainet", "dainet-synapse"
SYNAPSE = "Synapse"
DATASETS = {"acdc": "ACDC", "synapse": SYNAPSE, "btcv": SYNAPSE}
"""Part of a data set's name (in lower case) to the paper's name of it."""
STRUCTURES = {
    "rv": "rv",
    "mlv": "myo",
    "myo": "myo",
    "lvc": "lv",
    "lv": "lv",
    "kidney_left": "left_kidney",
    "kidney_right": "right_kidney",
    "gall_bladder": "gallbladder",
}
"""Names of labels (in lower case, words joined by _) to the metric that is printed of them, where these differ."""
DUAL = ("0000", "0001", "0111", "1111")
"""Switches of Table 3, finest first."""
MAIN_ROW, PLAIN, OTHERS_PLAIN = "DAINet 1111", "U-Net", "U-Net of others"
COMPARATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "V-Net": ("darr", {"pieces": 1}),
    "DARR": ("darr", {}),
    "R50 U-Net": ("r50_unet", {}),
    "R50 AttnUNet": ("r50_unet", {"gates": True}),
    "AttnUNet": ("attention_unet", {}),
    "ViT": ("transunet", {"encoder": "vit", "upsampler": "bilinear", "skips": 0}),
    "R50 ViT": ("transunet", {"skips": 0}),
    "ViT-CUP": ("transunet", {"encoder": "vit", "skips": 0}),
    "TransUNet": ("transunet", {}),
    "TransClaw U-Net": ("transclaw_unet", {}),
    "MT-UNet": ("mt_unet", {}),
    "Swin-Unet": ("swin_unet", {}),
    "TransCASCADE": ("trans_cascade", {}),
}
"""Models of Tables 1 and 2 by printed name."""
PUBLISHED_CLASSES = 9
"""Of all parameter counts at the published width: those of Synapse, with background."""


def _rows() -> tuple[Row, ...]:
    dual = [
        Row(
            name=f"DAINet {switches}",
            architecture="dai_net",
            options={"switches": [switch == "1" for switch in switches]},
            core=True,
        )
        for switches in DUAL
    ]
    return (
        Row(name=PLAIN, architecture="unet", core=True),
        Row(name="DAINet single", architecture="dai_net", options={"form": "single"}, core=True),
        *dual,
        *(Row(name=name, architecture=a, options=o, least_width=8) for name, (a, o) in COMPARATORS.items()),
    )


LOSSES = {"ce": 0.5, "dice": 0.0, "dice_all": 0.5}
"""`dice_all`: Eq. 4, over all classes, with 1e-5; of each sample, in the paper of the batch."""
AUGMENTATION = AugmentConfig(flip=False, turn_and_flip=True, rotate_degrees=20.0, scale=0.0, intensity=0.0)
PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=224,
        width=1.0,
        passes=300,
        batch_size=16,
        optimiser=OptimiserConfig(name="adam", learning_rate=1e-4, weight_decay=1e-4, schedule="poly"),
        augment=AUGMENTATION,
        losses=LOSSES,
        validations=30,
        unlabelled=True,
    ),
    "small": Protocol(
        max_side=128,
        width=0.25,
        options={"window": 4},
        steps=1200,
        batch_size=8,
        optimiser=OptimiserConfig(name="adam", learning_rate=2e-3, weight_decay=1e-4, schedule="poly"),
        augment=AUGMENTATION,
        losses=LOSSES,
        validations=6,
        unlabelled=True,
    ),
}
SYNAPSE_PREPARATION = {
    "window": (-125.0, 275.0),
    "labels": (1, 2, 3, 4, 6, 7, 8, 11),
    "locked_pattern": r"(?<!\d)0*(1|2|3|4|8|22|25|29|32|35|36|38)$",
}
"""Of the 30 abdominal CTs of BTCV: HU, eight organs by their values in its labels (spleen, right and left kidney,
gallbladder, liver, stomach, aorta, pancreas), and the twelve test cases by the number at the end of a case's name. The
other eighteen train, but for one fold of two or three that draws the validation curve."""


def measure(case: TestCase) -> dict[str, float | None]:
    """Return Dice and HD95 of every structure, see `measure_ids`, of a test case as its row reads it."""
    return measure_ids(case.probabilities().argmax(0).astype(np.uint8), case.truth, case.prepared, case.case_id)


def measure_ids(mask: Ids, truth: Ids, prepared: Prepared, case_id: str) -> dict[str, float | None]:
    """Return Dice and HD95 of every structure and their means over those where they are defined.

    `dice_<label>`, `mean_dice`; `hd95_<label>` in mm where the case's spacing is known, `voxels_<label>` in voxels; by
    the rule of TransUNet's program `compat_dice_<label>` and `compat_hd95_<label>`, in voxels. Each has its `mean_...`.
    Class ids are in the native grid.
    """
    found = case_dice(mask, truth, prepared.classes)
    labels, spacing = prepared.label_names[1:], prepared.case(case_id).spacing
    values: dict[str, float | None] = {"mean_dice": found.mean}
    values |= {f"dice_{label}": value for label, value in zip(labels, found.per_class, strict=True)}
    structures = [_structure_figures(mask == k, truth == k, spacing) for k in range(1, len(labels) + 1)]
    for name in structures[0]:
        each = [figures[name] for figures in structures]
        defined = [value for value in each if value is not None]
        values |= {f"{name}_{label}": value for label, value in zip(labels, each, strict=True)}
        values[f"mean_{name}"] = sum(defined) / len(defined) if defined else None
    return values


def _structure_figures(found: Mask, there: Mask, spacing: Sequence[float] | None) -> dict[str, float | None]:
    """Return what is measured of a predicted and a true structure beside the Dice, by name."""
    voxels = surface_distances(found, there)
    distances = None if spacing is None else surface_distances(found, there, spacing)
    return {
        "hd95": None if distances is None else distances.hausdorff(pooled=True),
        "voxels": voxels.hausdorff(pooled=True),
        "compat_dice": dice_of_transunet(found, there),
        "compat_hd95": voxels.hausdorff(pooled=True, transunet_compat=True),
    }


# ---------------------------------------------------------------- tables


def exhibits(findings: Findings) -> tuple[Grid, ...]:
    """Return Tables 1 or 2 and 3, paired differences, what the pretraining and the maps took, and surface distances."""
    others = [PLAIN, *COMPARATORS, MAIN_ROW]
    third = [PLAIN, "DAINet single", *(f"DAINet {switches}" for switches in DUAL)]
    if paper_dataset(DATASETS, findings.dataset) == SYNAPSE:
        first = _table(findings, "Table 1: other models", "1", [OTHERS_PLAIN, *others])
    else:
        first = _table(findings, "Table 2: other models, with those of Table 1", "2", others)
    tables = [first, _table(findings, "Table 3: single and dual encoders by switches", "3", third)]
    every = list(dict.fromkeys([*others[:-1], *third]))
    return (
        *tables,
        _differences(findings),
        *pretraining_tables(findings),
        _hd95_table(findings, every),
        _compat_table(findings, every),
    )


def _table(findings: Findings, title: str, table: str, names: list[str]) -> Grid:
    """Return Dice of models by structure, ours beside print."""
    labels, dataset = findings.prepared.label_names[1:], paper_dataset(DATASETS, findings.dataset)
    measures = {"mean": "mean_dice"} | {label: f"dice_{label}" for label in labels}
    prints = {"mean": "dice"} | {label: _printed_name(label) for label in labels}
    rows = []
    for name in names:
        ours = _ours(findings, name, list(measures.values()), percent)
        # Table 3 does not repeat the plain U-Net, which its text compares with
        source = "2" if (name, table) == (PLAIN, "3") else table
        rows.append((name, *ours, *(printed_text(NAME, source, name, dataset, metric) for metric in prints.values())))
    columns = ("model", *(f"{c}, ours" for c in measures), *(f"{c}, printed" for c in prints))
    return Grid(title, columns, tuple(rows))


def _printed_name(label: str) -> str:
    """Return the metric that is printed of a label."""
    name = re.sub(r"[\s_-]+", "_", label.strip().lower())
    return STRUCTURES.get(name, name)


def _hd95_table(findings: Findings, names: list[str]) -> Grid:
    """Return HD95 of models by structure, in mm over cases of known spacing and in voxels, beside print (voxels)."""
    prepared, labels = findings.prepared, findings.prepared.label_names[1:]
    units = {"voxels": unit_of(None, prepared.preprocessing.spatial_dims)}
    known = next((case.spacing for case in prepared.cases if case.spacing is not None), None)
    if known is not None:
        units = {"hd95": unit_of(known, prepared.preprocessing.spatial_dims)} | units
    measures = {
        f"{name}, {unit}": f"{measure}_{name}" if name != "mean" else f"mean_{measure}"
        for measure, unit in units.items()
        for name in ("mean", *labels)
    }
    columns = ("model", *measures, "mean, printed (voxels)")
    rows = [
        (name, *_ours(findings, name, list(measures.values()), _distance), _hd95_print(findings, name))
        for name in names
    ]
    return Grid("HD95, both directions pooled", columns, tuple(rows))


def _compat_table(findings: Findings, names: list[str]) -> Grid:
    """Return Dice and HD95 by the rule of TransUNet's program, beside print."""
    dataset, rows = paper_dataset(DATASETS, findings.dataset), []
    for name in names:
        (dice,) = _ours(findings, name, ["mean_compat_dice"], percent)
        (distance,) = _ours(findings, name, ["mean_compat_hd95"], _distance)
        tables = ("1",) if dataset == SYNAPSE else ("2", "3")  # Table 3 has the rows of DAI-Net that Table 2 has not
        prints = [printed_text(NAME, table, name, dataset, "dice") for table in tables]
        dice_print = next((text for text in prints if text != NOTHING), NOTHING)
        rows.append((name, dice, dice_print, distance, _hd95_print(findings, name)))
    columns = ("model", "Dice, ours", "Dice, printed", "HD95 in voxels, ours", "HD95, printed")
    return Grid("By the rule of TransUNet's program for empty masks", columns, tuple(rows))


def _ours(findings: Findings, name: str, measures: list[str], text: Callable[[Summary], str]) -> list[str]:
    """Return our figures of a model as text."""
    result = findings.results.get(name)
    return [NOT_TRAINED if result is None else text(result.summary(measure)) for measure in measures]


def _hd95_print(findings: Findings, name: str) -> str:
    return printed_text(NAME, "1", name, paper_dataset(DATASETS, findings.dataset), "hd95")


def _distance(summary: Summary) -> str:
    """Return mean ± sd of a distance with n."""
    if summary.mean is None:
        return NOTHING
    spread = "" if summary.sd is None else f"±{summary.sd:.2f}"
    return f"{summary.mean:.2f}{spread} (n={summary.n})"


def _differences(findings: Findings) -> Grid:
    """Return paired differences of the mean Dice, resampled by patient."""
    pairs = [(f"DAINet {switches}", PLAIN) for switches in DUAL] + [("DAINet single", PLAIN)]
    pairs += [(MAIN_ROW, f"DAINet {switches}") for switches in DUAL[:-1]] + [(MAIN_ROW, "DAINet single")]
    dataset, rows = paper_dataset(DATASETS, findings.dataset), []
    for name, other in pairs:
        mine, theirs = findings.results.get(name), findings.results.get(other)
        if mine is not None and theirs is not None:
            printed = _printed_difference(name, other, dataset)
            rows.append((f"{name} minus {other}", difference(mine.compared(theirs, "mean_dice")), printed))
    columns = ("paired difference of the mean Dice, points", "ours (95 % interval by patient)", "printed")
    return Grid("DAI-Net against U-Net and among its switches", columns, tuple(rows))


def _printed_difference(name: str, other: str, dataset: str | None) -> str:
    main, plain = ("1", "1") if dataset == SYNAPSE else ("3", "2")
    mine = printed(NAME).get((main, name, dataset or "", "dice"))
    theirs = printed(NAME).get((plain if other == PLAIN else main, other, dataset or "", "dice"))
    return NOTHING if mine is None or theirs is None else f"{mine[0] - theirs[0]:+.2f}"


# ---------------------------------------------------------------- figures


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the figures as far as their rows are trained; return those written."""
    makers = (pretraining_curve, map_pictures, _examples)
    return tuple(path for maker in makers if (path := maker(findings, folder)) is not None)


def _chosen(findings: Findings, name: str, count: int) -> list[str]:
    """Return test cases of a row from the worst to the best."""
    cases = [case for case in findings.results[name].cases if case.has_foreground]
    ranked = sorted(cases, key=lambda case: case.values.get("mean_dice") or 0.0)
    return [case.case for case in spread(ranked, count)]


def _examples(findings: Findings, folder: Path) -> Path | None:
    """Test cases from the worst to the best of DAI-Net, with truth and the masks of U-Net and DAI-Net."""
    names = (PLAIN, MAIN_ROW)
    if not findings.tested(*names):
        return None
    chosen = _chosen(findings, MAIN_ROW, 8)
    panels = [figures.Contoured(case_id, *findings.shown_masks(case_id, names)) for case_id in chosen]
    return figures.contoured(folder / "examples.png", panels)


ABOUT = (
    "No early stopping, unlike the paper, which stops by validation Dice. Loss: 0.5 cross-entropy + 0.5 Dice over all "
    "classes (Eq. 4, of each sample; the paper's sum is over the batch), for every row; the comparators have others in "
    "their own papers, and DARR has its puzzle beside. Augmentation: with chance 1/2 a quarter turn and a flip, else "
    "with 1/2 a rotation of up to 20 degrees. The maps, one channel a head, are of a DINO teacher that is pretrained "
    "here from random weights on the training images alone; the paper's is a ViT-S/16 (6 heads) that starts from "
    "ImageNet. Intervals resample patients only: that another training of the same row reads otherwise is not in them. "
    "Parameters at the published width are for 9 classes, and for the image channels of each network's own paper. "
)
PAPER = Paper(
    name=NAME,
    title="DAI-Net (Yeganeh et al. 2023)",
    rows=_rows(),
    protocols=PROTOCOLS,
    measure=measure,
    exhibits=exhibits,
    pictures=pictures,
    about=ABOUT + PRINTED,
    measure_mask=measure_ids,
    published_classes=PUBLISHED_CLASSES,
    before=Before(architectures=("dai_net",), make=make_teacher),
)
PAPERS.add(NAME, PAPER)
PAPERS.add(
    SYNAPSE_NAME,
    replace(
        PAPER,
        name=SYNAPSE_NAME,
        title="DAI-Net (Yeganeh et al. 2023) on Synapse",
        protocols={size: replace(p, prepare=SYNAPSE_PREPARATION) for size, p in PAPER.protocols.items()},
    ),
)
