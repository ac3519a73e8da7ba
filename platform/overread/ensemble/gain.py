"""What a trained network adds to the ensemble of the networks before it, on validation cases.

A search for the best single network feeds what the panel already has. The marginal gain of a network to the current
ensemble (soft vote, one vote each) rewards what is missing there:

  gain                mean Dice with it minus mean Dice without
  gain_and_failure    the same, plus what AURC falls by, pairwise Dice being the confidence: risk is 1 - Dice, so both
                      are in units of Dice

The first network has nothing to add to: its gain is 0. A network joins the ensemble if its gain is above one paired
standard error by group (`summary.standard_error`); while there are fewer than three members, which relations need,
above 0. Gains are relative to the ensemble of their time, so they fall as it grows: an earlier gain of the same size
was easier. Greedy selection over all networks at the end (`greedy`) is free of that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from overread.confidence.failure_detection import area_under_risk
from overread.confidence.relations import Relations
from overread.confidence.scores import mean_defined
from overread.confidence.tied_order import TiedOrder
from overread.data.preprocess import to_native
from overread.data.store import open_case
from overread.ensemble.fusion import Probabilities, SoftVote
from overread.ensemble.greedy import TIE
from overread.ensemble.readings import encode, read_reading, write_readings
from overread.ensemble.selection import LEAST
from overread.jsonio import JsonRecord
from overread.metrics.overlap import Ids, case_dice
from overread.metrics.summary import group_places, standard_error
from overread.records import Prepared, TrialConfig

if TYPE_CHECKING:
    import torch

Objective = Literal["dice", "gain", "gain_and_failure"]
MOST = 8
"""Members of the current ensemble at the most: each new network is measured against all."""
Read = Callable[[str, str], Probabilities]
"""From member and case to probabilities (K, *native)."""


@dataclass(frozen=True, kw_only=True)
class Gain(JsonRecord):
    """What a network adds."""

    members: tuple[str, ...]
    """The ensemble that it was measured against."""
    dice: float
    """Mean Dice with it."""
    gain: float
    error: float
    """Paired standard error of the gain, at most 1 (one group alone tells nothing)."""
    aurc: float
    """With it."""
    aurc_gain: float
    """What AURC falls by."""

    def value(self, objective: Objective) -> float:
        """Return the value of the network for a search, higher is better."""
        return self.gain + (self.aurc_gain if objective == "gain_and_failure" else 0.0)

    def joins(self, objective: Objective) -> bool:
        """Return whether the network becomes a member."""
        if not self.members:
            return True
        least = self.error if len(self.members) >= LEAST else 0.0
        return len(self.members) < MOST and self.value(objective) > max(least, TIE)


@dataclass(frozen=True)
class _Judged:
    """Dice and pairwise Dice of one case."""

    dice: float
    confidence: float | None


def keep_readings(
    path: Path, prepared: Prepared, cases: Sequence[str], config: TrialConfig, weights: Path, device: torch.device | str
) -> None:
    """Write the main readings of cases by a trained network."""
    from overread.training.extras import case_extras
    from overread.training.inference import load_segmenter, predict_volume

    segmenter = load_segmenter(config, weights, device)

    def readings() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for case in cases:
            image, extras = np.array(open_case(prepared, case).image), case_extras(segmenter, prepared, case)
            found = predict_volume(segmenter, image, config, None, device, extras=extras)
            if not np.isfinite(found).all():
                raise ArithmeticError("its probabilities are not finite")
            yield case, encode(found)

    write_readings(path, readings())


def gain_of(prepared: Prepared, cases: Sequence[str], members: Mapping[str, Path], candidate: Path) -> Gain:
    """Return the gain of the network whose readings `candidate` holds, over those of `members`."""

    def read(member: str, case: str) -> Probabilities:
        path = members[member] if member else candidate
        return to_native(read_reading(path, case), prepared.case(case).native_shape, prepared.preprocessing)

    truths = {case: np.asarray(open_case(prepared, case).truth) for case in cases}
    return measure_gain(tuple(members), read, truths, [prepared.case(case).group for case in cases])


def measure_gain(members: tuple[str, ...], read: Read, truths: Mapping[str, Ids], groups: Sequence[str]) -> Gain:
    """Return the gain of the network that is read under the empty name.

    Args:
        members: The current ensemble.
        read: Gives the probabilities of a member, or of `""`, for a case.
        truths: True class ids (*S) by case.
        groups: Of each case.

    """
    before, after = [], []
    for case, truth in truths.items():
        vote, relations = SoftVote(), None
        for member in (*members, ""):
            if relations is not None and not member:
                before.append(_judge(vote, relations, truth))
            probabilities = read(member, case)
            relations = relations or Relations(truth.shape, len(probabilities))
            vote.add(probabilities)
            relations.add(probabilities.argmax(0).astype(np.uint8))
        assert relations is not None  # noqa: S101  (the candidate has read)
        after.append(_judge(vote, relations, truth))
    dice, aurc = float(np.mean([case.dice for case in after])), _aurc(after)
    if not members:
        return Gain(members=(), dice=dice, gain=0.0, error=0.0, aurc=aurc, aurc_gain=0.0)
    differences = np.array([b.dice - a.dice for a, b in zip(before, after, strict=True)])
    return Gain(
        members=members,
        dice=dice,
        gain=float(differences.mean()),
        error=min(standard_error(differences, group_places(groups)), 1.0),  # JSON knows no infinity
        aurc=aurc,
        aurc_gain=_aurc(before) - aurc,
    )


def _judge(vote: SoftVote, relations: Relations, truth: Ids) -> _Judged:
    mask = vote.mean().argmax(0).astype(np.uint8)
    pairwise = mean_defined(relations.pairwise_dice(k) for k in range(1, relations.classes))
    return _Judged(case_dice(mask, truth, relations.classes).mean, pairwise)


def _aurc(cases: Sequence[_Judged]) -> float:
    """Return the AURC of pairwise Dice; a single member has none, and leaves the mean risk."""
    order = TiedOrder([case.confidence for case in cases])
    risk = 1 - np.array([case.dice for case in cases])
    return float(area_under_risk(order, risk, np.ones((1, len(cases)), dtype=np.int64))[0])
