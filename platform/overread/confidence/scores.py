"""The one module of confidence scores: which readings enter which score, and the scores of a case.

`SCORES` is the table of design section 2. Scores of a case are made of `Relations` and never of a family's own code.
A case where a member failed, all readings are empty or only one reading exists is flagged: see `ranking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from overread.confidence.extent import Extent
from overread.confidence.relations import Relations
from overread.errors import UserError
from overread.metrics.overlap import Ids
from overread.records import CaseConfidence
from overread.registry import Registry

ALL_EMPTY = "all_empty"
ONE_READING = "one_reading"
MEMBER_FAILED = "member_failed"


@dataclass(frozen=True)
class Score:
    """One row of the table of scores, or of the other figures that predict the Dice of a case."""

    name: str
    readings: str
    """The readings that enter it, and nothing else."""
    description: str
    paper: str
    rises_with_quality: bool = True
    """False: a property of the case (its annotators disagree, its findings are large), not doubt of the network."""


SCORES: Registry[Score] = Registry("score")
for _score in (
    Score(
        "relation_confidence",
        "one mask per ensemble member",
        "Dice of Possible and Consensus; compare at equal n_readings only",
        "Relation U-Net, generalised to n readings",
    ),
    Score("pairwise_dice", "one mask per ensemble member", "mean Dice over all pairs", "Zenk et al. 2024"),
    Score("c_ij", "B_i and B_j of one U-Netmer", "Dice of the masks read at scales i and j", "U-Netmer"),
    Score(
        "sa_mean",
        "binary maps of the last two layers and the network's own mask; of an ensemble those of its heaviest network",
        "mean Dice of what the last layers separate with what the network segmented",
        "ProtoSeg, segmentation ability (baseline of U-Netmer)",
    ),
    Score("relation_unet_c", "r^p and r^c of the pair (x, x)", "Dice of the two relation heads", "Relation U-Net"),
    Score("mc_dropout_c", "the n dropout passes", "Dice of their Possible and Consensus", "Relation U-Net (baseline)"),
    Score(
        "entropy",
        "probabilities of the network's own mask; of an ensemble the mean over its members",
        "minus the mean predictive entropy over the predicted foreground (`confidence.entropy`)",
        "Relation U-Net (baseline)",
    ),
    Score(
        "annotator_disagreement",
        "predicted U' and I' of a UGS-Net",
        "Dice of predicted union and intersection of the annotators: how much they would differ",
        "UGS-Net",
        rises_with_quality=False,
    ),
    Score(
        "foreground",
        "mean probabilities of the members",
        "highest foreground probability of any voxel: ranks flagged cases alone",
        "this platform",
        rises_with_quality=False,
    ),
    Score(
        "volume",
        "the ensemble's own mask",
        "size of a class (`confidence.extent`): of small findings few voxels change the Dice",
        "this platform",
        rises_with_quality=False,
    ),
    Score(
        "components",
        "the ensemble's own mask",
        "number of connected parts of a class (`confidence.extent`)",
        "this platform",
        rises_with_quality=False,
    ),
):
    SCORES.add(_score.name, _score)


def case_confidence(
    case: str,
    relations: Relations,
    label_names: Sequence[str],
    foreground: float,
    failed: Iterable[str] = (),
    scores: Mapping[str, float | None] | None = None,
    extent: Extent | None = None,
) -> CaseConfidence:
    """Return the row of a case from the relations of its members' masks.

    Args:
        case: Case id.
        relations: One reading per member that did not fail.
        label_names: By class id, the background first.
        foreground: Highest mean foreground probability of any voxel.
        failed: Names of members left out.
        scores: Further scores, such as the `pair_score` of a member's relation sets.
        extent: Of the ensemble's own mask.

    """
    names = dict(enumerate(label_names[1:], start=1))
    relation = {name: relations.relation_confidence(k) for k, name in names.items()}
    pairwise = {name: relations.pairwise_dice(k) for k, name in names.items()}
    return CaseConfidence(
        case=case,
        n_readings=relations.n,
        flag=case_flag(relations, failed),
        foreground=foreground,
        relation_confidence=mean_defined(relation.values()),
        pairwise_dice=mean_defined(pairwise.values()),
        relation_confidence_per_class=relation,
        pairwise_dice_per_class=pairwise,
        scores=dict(scores or {}),
        absent=tuple(name for k, name in names.items() if relations.empty(k)),
        volume_unit=extent.unit if extent else "",
        volume_per_class={name: extent.volumes[k] for k, name in names.items()} if extent else {},
        components_per_class={name: extent.components[k] for k, name in names.items()} if extent else {},
    )


def case_flag(relations: Relations, failed: Iterable[str] = ()) -> str:
    """Return why a case must not be ranked by agreement: reasons joined by ';', or nothing."""
    names = ",".join(failed)
    flags = [f"{MEMBER_FAILED}:{names}"] if names else []
    if relations.empty():
        flags.append(ALL_EMPTY)
    if relations.n == 1:  # a mask always agrees with itself
        flags.append(ONE_READING)
    return ";".join(flags)


def never_safe(flag: str) -> bool:
    """Return whether a flag says that agreement is no sign of safety: all readings are empty, or a member failed.

    >>> never_safe("member_failed:unet-1;one_reading"), never_safe("one_reading")
    (True, False)
    """
    return any(part.partition(":")[0] in (ALL_EMPTY, MEMBER_FAILED) for part in flag.split(";"))


def pair_score(relations: Relations, first: str, second: str) -> float | None:
    """Return C, the Dice of two named readings, mean over the classes that either has (C_ij, Relation U-Net's C).

    None if both are empty: the papers are silent there, and 1 would rank an overlooked lesion as safe. A reading that
    is not there, such as `scale_1` of a scale set without 1, raises `UserError`.
    """
    missing = [name for name in (first, second) if name not in relations.names]
    if missing:
        raise UserError(
            f"a score of {first} and {second} must have both readings, but {' and '.join(missing)} is not among "
            f"{', '.join(relations.names)}: train the network with it"
        )
    i, j = relations.names.index(first), relations.names.index(second)
    return mean_defined(relations.pair_dice(i, j, k) for k in range(1, relations.classes))


def relation_scores(
    sets: Mapping[str, tuple[str, ...]], readings: Iterable[tuple[str, Ids]], shape: tuple[int, ...], classes: int
) -> dict[str, float | None]:
    """Return C of each relation set, the Dice of the union and the intersection of its readings: of two, their Dice.

    Means are over the classes that any reading of the set has; None if there is none, as in `pair_score`.

    Args:
        sets: By score name the names of its readings.
        readings: Class ids by name, one at a time: memory does not grow with their number. Others are not used.
        shape: The grid of the readings.
        classes: Number of classes with background.

    Raises:
        UserError: A reading of a set is not there.

    """
    relations = {names: Relations(shape, classes) for names in sets.values()}
    missing = {name for names in relations for name in names}
    for name, mask in readings:
        missing.discard(name)
        for names in relations:
            for _ in range(names.count(name)):
                relations[names].add(mask)
                relations[names] = _at_most_two(relations[names])
    if missing:
        raise UserError(
            f"{', '.join(sets)} must have all readings, but {' and '.join(sorted(missing))} are not there: "
            "train the network with them"
        )

    def mean(own: Relations) -> float | None:
        return mean_defined(own.relation_confidence(k) for k in range(1, classes))

    return {score: mean(relations[names]) for score, names in sets.items()}


def _at_most_two(relations: Relations) -> Relations:
    """Return relations with the same Possible and Consensus, made of these two where there were more readings."""
    if relations.n <= 2:
        return relations
    both = Relations(relations.shape, relations.classes)
    for relation in (relations.possible, relations.consensus):
        both.add(np.stack([relation(k) for k in range(1, relations.classes)]))
    return both


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined, None if there are none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
