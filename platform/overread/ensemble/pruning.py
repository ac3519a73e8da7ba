"""What the pruning levels of a trained network cost and are worth, and the choice of one (UNet#, Fig. 7)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from overread.architectures.contract import Alone, Segmenter, count_parameters
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Batch, Variant

LEVEL = "level"
"""Option of the variants that are pruning levels."""
REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class LevelCost(JsonRecord):
    """What one level costs when it stands alone."""

    level: int
    parameters: int
    size: tuple[int, ...]
    """The patch that it was measured on; a larger case takes many."""
    flops: int
    """Floating-point operations of one patch (a multiplication and an addition are two)."""
    seconds: float
    """Median time of one patch."""

    @property
    def sides(self) -> str:
        """The size for a table, such as `96x96`."""
        return "x".join(map(str, self.size))


@dataclass(frozen=True, kw_only=True)
class LevelScore(JsonRecord):
    """A level on the validation cases."""

    cost: LevelCost
    seconds_per_case: float
    """Mean time of a whole case with all of its patches, from the prepared image to the mask in its own grid."""
    dice: float
    """Mean over cases of the mean over foreground classes."""
    iou: float
    """Mean over cases, foreground classes merged."""
    pooled_iou: float
    """Of all voxels of all cases, foreground classes merged."""
    cases: int


def levels_of(segmenter: Segmenter) -> tuple[Variant, ...]:
    """Return the variants that are pruning levels, the smallest first; none: `UserError`."""
    found = tuple(variant for variant in segmenter.variants() if LEVEL in variant.options)
    if not found:
        raise UserError(
            "pruning needs a network with several trained levels, but this one has none: "
            "train unet_sharp with deep_supervision, wiring sharp or nested"
        )
    return tuple(sorted(found, key=lambda variant: variant.options[LEVEL]))


def find_level(segmenter: Segmenter, level: int) -> Variant:
    """Return the variant of a level; one above the trained depth raises `UserError`."""
    known = {variant.options[LEVEL]: variant for variant in levels_of(segmenter)}
    if level not in known:
        raise UserError(f"level must be one of those trained ({', '.join(map(str, known))}), but got {level}")
    return known[level]


def stand_alone(segmenter: Segmenter, variant: Variant) -> Alone:
    """Return the part of the network that reads a level."""
    part = segmenter.alone(variant)
    if part is None:
        raise UserError(f"variant '{variant.name}' must be readable by a part of the network, but needs all of it")
    return part


def level_cost(
    segmenter: Segmenter, variant: Variant, *, in_channels: int, size: tuple[int, ...], repeats: int = REPEATS
) -> LevelCost:
    """Measure a level alone on one random patch (1, in_channels, *size), on the device of its weights."""
    from torch.utils.flop_counter import FlopCounterMode

    part = stand_alone(segmenter, variant).segmenter.eval()
    device = next(part.parameters()).device
    batch = Batch(
        images=torch.randn(1, in_channels, *size, device=device),
        labels=torch.zeros((1, 0, *size), dtype=torch.uint8, device=device),
        valid=torch.zeros((1, 0), dtype=torch.bool, device=device),
    )
    seconds = []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            part.read(batch)
        for _ in range(repeats):
            started = time.perf_counter()
            part.read(batch).probabilities.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - started)
    return LevelCost(
        level=variant.options[LEVEL],
        parameters=count_parameters(part),
        size=tuple(size),
        flops=counter.get_total_flops(),
        seconds=statistics.median(seconds),
    )


def check_tolerance(tolerance: float) -> None:
    """Raise `UserError` for a tolerance that is no part of one."""
    if not 0 <= tolerance < 1:
        raise UserError(f"tolerance must be at least 0 and below 1 (points of Dice), but got {tolerance}")


def choose_level(scores: Sequence[LevelScore], tolerance: float) -> LevelScore:
    """Return the smallest level whose validation Dice is at most `tolerance` below the best one."""
    check_tolerance(tolerance)
    if not scores:
        raise UserError("there must be a level to choose from, but there is none")
    best = max(score.dice for score in scores)
    fitting = [score for score in scores if score.dice >= best - tolerance]
    return min(fitting, key=lambda score: score.cost.level)
