"""The failure benchmark: which confidence finds the cases that were segmented badly, on clean and corrupted images.

Small networks are trained once each on the same cases: five U-Nets that differ in their seed, and four networks of
other architectures. Ensembles of equal size are compared as failure detectors (Zenk et al. 2024,
doi:10.1016/j.media.2024.103392) with each other and with what a single network says of itself: entropy, the passes of
Monte-Carlo dropout, the scales of U-Netmer (C_ij) and the relation heads of Relation U-Net (C). Every method is judged
by the Dice of its own mask.

The locked cases are read clean and in seven corruptions at three strengths (`data.corruptions`). The combined score
(`confidence.judgement`) is fitted on the clean validation fold, which chose nothing in a training of fixed length, its
lower bound on the clean calibration groups. The same fold chooses members among all rows, greedily and otherwise
(`failure_selection`).
Differs from Zenk et al.: own corruptions instead of other hospitals' data, small networks, Dice as the only risk.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overread.data.corruptions import CORRUPTIONS
from overread.jsonio import fingerprint
from overread.records import AugmentConfig, OptimiserConfig
from overread.reproduction.failure_figures import pictures
from overread.reproduction.failure_memory import measure_memory
from overread.reproduction.failure_methods import ARCHITECTURES, DROPOUT, ENSEMBLES, RELATION, SEEDS, U_NETMER
from overread.reproduction.failure_readings import (
    FIGURES_VERSION,
    EnsembleItem,
    read_case,
    read_together,
)
from overread.reproduction.failure_selection import select_rows
from overread.reproduction.failure_tables import exhibits
from overread.reproduction.measuring import TestCase
from overread.reproduction.paper import PAPERS, Paper, Protocol, Row, Size
from overread.reproduction.results import Findings, RowResult

if TYPE_CHECKING:
    from overread.data.prepare import MapCases

NAME = "failure"
PASSES = 5
"""Dropout passes: as many readings as an ensemble has members."""
LOSSES = {"ce": 0.5, "dice": 0.5}
"""Of every network that has them; Relation U-Net's are its own."""
AUGMENTATION = AugmentConfig(flip=False, rotate_degrees=15.0, scale=0.1, intensity=0.1)
"""No flips: left and right ventricle, head and body differ by their side."""
ABOUT = (
    "Rows differ in nothing but the network or its seed. The held-out fold fits the combined score and selects "
    "members, nothing else; 15 % of the groups calibrate its lower bound. Cases without a score (nobody marks "
    "anything) rank as least sure, the highest foreground probability first. "
    "Nothing is printed of them: the published study has other data and larger networks. "
    f"Corruptions: {', '.join(CORRUPTIONS)}, each at three strengths, the same for all rows."
)


def _rows() -> tuple[Row, ...]:
    seeds = (Row(name=name, architecture="unet", core=True, seed=number) for number, name in enumerate(SEEDS))
    return (
        *seeds,
        Row(name=U_NETMER, architecture="unetmer", core=True, options={"scales": [1, 2, 4]}),
        *(
            Row(name=name, architecture=architecture, core=True, options=options, least_width=8)
            for name, (architecture, options) in ARCHITECTURES.items()
        ),
        Row(name=DROPOUT, architecture="mc_dropout", core=True, options={"passes": PASSES}),
        Row(name=RELATION, architecture="relation_unet", core=True),
    )


PROTOCOLS: Mapping[Size, Protocol] = {
    "paper": Protocol(
        max_side=256,
        width=1.0,
        passes=100,
        batch_size=16,
        optimiser=OptimiserConfig(name="adamw", learning_rate=1e-3, weight_decay=1e-4, schedule="one_cycle"),
        augment=AUGMENTATION,
        losses=LOSSES,
        folds=5,
        calibration_fraction=0.15,
        read_all=True,
    ),
    "small": Protocol(
        max_side=96,
        width=0.25,
        steps=700,
        batch_size=8,
        optimiser=OptimiserConfig(name="adamw", learning_rate=2e-3, weight_decay=1e-4, schedule="one_cycle"),
        augment=AUGMENTATION,
        losses=LOSSES,
        validations=4,
        folds=5,
        calibration_fraction=0.15,
        read_all=True,
    ),
}


def measure(case: TestCase) -> dict[str, float | None]:
    """Return the figures of a case, clean and corrupted."""
    return read_case(case)


# ---------------------------------------------------------------- rows together


def combine(findings: Findings, map_cases: MapCases) -> dict[str, RowResult]:
    """Return the results of the ensembles whose members are all tested.

    The selection among all rows, and what reading takes, are left as files.
    """
    results = {
        name: _ensemble(findings, name, members, map_cases)
        for name, members in ENSEMBLES.items()
        if findings.tested(*members)
    }
    select_rows(findings, map_cases)
    if results and findings.tested(*SEEDS):
        measure_memory(findings, SEEDS)
    return results


def _folder(findings: Findings) -> Path:
    assert findings.combined is not None  # noqa: S101  (the program sets it before it combines)
    return findings.combined


def _ensemble(findings: Findings, name: str, members: Sequence[str], map_cases: MapCases) -> RowResult:
    """Return the result of an ensemble, from its file or from the stored readings of its members."""
    folders = {member: findings.networks[member][0][1].parent for member in members}
    names = [folder.name for folder in folders.values()]
    key = fingerprint({"members": names, "data": findings.prepared.content, "figures": FIGURES_VERSION})
    path = _folder(findings) / f"{name.replace(' ', '-')}-{key[:12]}.json"
    if path.is_file():
        return RowResult.load(path)
    told = {member: str(folder) for member, folder in folders.items()}
    kept = path.with_suffix("")
    items = [
        EnsembleItem(
            case=case.case, prepared=findings.prepared.root, folders=told, kept=str(kept / f"{case.case}.json")
        )
        for case in findings.results[members[0]].cases
    ]
    own = findings.trained(members)
    result = RowResult(
        row=name,
        parameters=sum(row.parameters for row in own),
        steps=sum(row.steps for row in own),
        seconds=sum(row.seconds for row in own),
        epochs=(),
        cases=tuple(map_cases(read_together, items, f"Reading with {name}")),
    )
    result.save(path)
    shutil.rmtree(kept, ignore_errors=True)
    return result


PAPERS.add(
    NAME,
    Paper(
        name=NAME,
        title="Failure benchmark",
        rows=_rows(),
        protocols=PROTOCOLS,
        measure=measure,
        exhibits=exhibits,
        pictures=pictures,
        combine=combine,
        about=ABOUT,
        measures=FIGURES_VERSION,
        command="bench",
    ),
)
