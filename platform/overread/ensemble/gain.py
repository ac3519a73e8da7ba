"""What a trained network adds to the ensemble of the networks before it, on validation cases.

A search for the best single network feeds what the panel already has. The marginal gain of a network to the current
ensemble (soft vote, one vote each) rewards what is missing there:

  gain                mean Dice with it minus mean Dice without
  gain_and_failure    the same, plus what AURC falls by, pairwise Dice being the confidence: risk is 1 - Dice, so both
                      are in units of Dice

The first network has nothing to add to: its gain is 0. One member has no pairwise Dice and orders no cases, so to it
nothing is added in AURC either: any second network, however bad, would be paid for the mere presence of a confidence.
A network joins the ensemble if its value is above one paired standard error of that value by group; while there are
fewer than three members, which relations need, above 0. Risk is in AURC, too, so `gain_and_failure` pays a better mask
twice over; its noise is as much larger. Gains are relative to an ensemble, so they fall as it grows. Those of a search
are therefore measured anew when its ensemble has changed, that of a member against the others; greedy selection over
all networks at the end (`greedy`) is free of their order.
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
from overread.confidence.tied_order import Floats, TiedOrder, Weights
from overread.data.preprocess import to_native
from overread.data.store import open_case
from overread.ensemble.fusion import Probabilities
from overread.ensemble.greedy import TIE
from overread.ensemble.readings import encode, read_reading, write_readings
from overread.ensemble.selection import LEAST
from overread.jsonio import JsonRecord
from overread.metrics.overlap import Ids, case_dice
from overread.metrics.summary import group_places, jackknife_error, standard_error
from overread.records import Prepared, TrialConfig

if TYPE_CHECKING:
    import torch

Objective = Literal["dice", "gain", "gain_and_failure"]
GAIN = "gain.json"
"""Beside the outcome of a trial that was measured."""
MOST = 8
"""Members of the current ensemble at the most: each new network is measured against all."""
Sums = NDArray[np.float64]
Read = Callable[[str, str], Probabilities]
"""From network and case to probabilities (K, *native)."""


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
    """With it; of one network alone its mean risk."""
    aurc_gain: float
    """What AURC falls by; 0 where there was no confidence before, that is with fewer than two members."""
    joint_error: float = 1.0
    """As `error`, of gain + aurc_gain, which is no mean: by leaving out each group. 1 also of earlier versions."""

    def value(self, objective: Objective) -> float:
        """Return the value of the network for a search, higher is better."""
        return self.gain + (self.aurc_gain if objective == "gain_and_failure" else 0.0)

    def joins(self, objective: Objective) -> bool:
        """Return whether the network becomes a member."""
        if not self.members:
            return True
        error = self.joint_error if objective == "gain_and_failure" else self.error
        least = error if len(self.members) >= LEAST else 0.0
        return len(self.members) < MOST and self.value(objective) > max(least, TIE)


@dataclass(frozen=True)
class _Judged:
    """Dice and pairwise Dice of one case, and its highest foreground probability, which ranks it without the latter."""

    dice: float
    confidence: float | None
    foreground: float


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


def gains_of(
    prepared: Prepared,
    cases: Sequence[str],
    members: tuple[str, ...],
    networks: Sequence[str],
    paths: Mapping[str, Path],
) -> dict[str, Gain]:
    """Return the gain of each of `networks`; `paths` are the readings of these and of the members, by name."""

    def read(network: str, case: str) -> Probabilities:
        codes = read_reading(paths[network], case)
        return to_native(codes, prepared.case(case).native_shape, prepared.preprocessing)

    truths = {case: np.asarray(open_case(prepared, case).truth) for case in cases}
    return measure_gains(members, networks, read, truths, [prepared.case(case).group for case in cases])


def measure_gains(
    members: tuple[str, ...], networks: Sequence[str], read: Read, truths: Mapping[str, Ids], groups: Sequence[str]
) -> dict[str, Gain]:
    """Return the gain of each of `networks`: of a member against the other members, of another against all.

    Args:
        members: The current ensemble.
        networks: To be measured. Each is read once, whatever their number, and one at a time.
        read: Gives the probabilities of a network for a case.
        truths: True class ids (*S) by case.
        groups: Of each case.

    """
    judged = [_judge_case(members, networks, read, case, truth) for case, truth in truths.items()]
    return {name: _gain(members, name, [case[name] for case in judged], groups) for name in networks}


_Pair = tuple[_Judged | None, _Judged]
"""A case without (None: nobody is left) and with a network."""


def _judge_case(members: Sequence[str], networks: Sequence[str], read: Read, case: str, truth: Ids) -> dict[str, _Pair]:
    """Return the case without and with each network. In memory are three maps and a mask of each member."""
    masks: dict[str, Ids] = {}
    total: Sums | None = None
    for member in members:
        own = read(member, case)
        masks[member] = own.argmax(0).astype(np.uint8)
        # A few float32 sum up exactly in float64: without a member it is the sum of the others, and ties stay ties
        total = own.astype(np.float64) if total is None else total + own
    whole = None if total is None else _judge(total, list(masks.values()), truth)
    found: dict[str, _Pair] = {}
    for name in networks:
        own = read(name, case)
        if name in masks and total is not None and whole is not None:
            others = [masks[member] for member in members if member != name]
            found[name] = (_judge(total - own, others, truth) if others else None, whole)
        else:
            vote = own.astype(np.float64) if total is None else total + own
            found[name] = (whole, _judge(vote, [*masks.values(), own.argmax(0).astype(np.uint8)], truth))
    return found


def _gain(members: tuple[str, ...], name: str, cases: Sequence[_Pair], groups: Sequence[str]) -> Gain:
    others = tuple(member for member in members if member != name)
    before, after = [case for case, _ in cases if case is not None], [case for _, case in cases]
    dice, aurc = float(np.mean([case.dice for case in after])), _aurc(after)
    if not others:
        return Gain(members=(), dice=dice, gain=0.0, error=0.0, joint_error=0.0, aurc=aurc, aurc_gain=0.0)
    differences, places = np.array([b.dice - a.dice for a, b in zip(before, after, strict=True)]), group_places(groups)
    paid = len(others) > 1

    def joint(weights: Weights) -> Floats:
        gain = weights @ differences / weights.sum(1)
        return gain + (_aurcs(before, weights) - _aurcs(after, weights) if paid else 0.0)

    return Gain(
        members=others,
        dice=dice,
        gain=float(differences.mean()),
        error=min(standard_error(differences, places), 1.0),  # JSON knows no infinity
        joint_error=min(jackknife_error(joint, places), 1.0),
        aurc=aurc,
        aurc_gain=_aurc(before) - aurc if paid else 0.0,
    )


def _judge(vote: Sums, masks: Sequence[Ids], truth: Ids) -> _Judged:
    """Judge a soft vote, given as the sum (K, *S) of its probabilities, by its mask and those of its members."""
    relations = Relations(truth.shape, len(vote))
    for mask in masks:
        relations.add(mask)
    pairwise = mean_defined(relations.pairwise_dice(k) for k in range(1, relations.classes))
    dice = case_dice(vote.argmax(0).astype(np.uint8), truth, relations.classes).mean
    return _Judged(dice, pairwise, foreground=1 - float(vote[0].min()) / len(masks))


def _aurc(cases: Sequence[_Judged]) -> float:
    return float(_aurcs(cases, np.ones((1, len(cases)), dtype=np.int64))[0])


def _aurcs(cases: Sequence[_Judged], weights: Weights) -> Floats:
    """Return the AURC (R,) of pairwise Dice, of cases weighted (R, n); a single member has none: the mean risk."""
    confidence = [case.confidence for case in cases]
    foreground = None if all(c is None for c in confidence) else [case.foreground for case in cases]
    order = TiedOrder(confidence, foreground)
    return area_under_risk(order, 1 - np.array([case.dice for case in cases]), weights)
