import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.ensemble.pruning import LevelCost, LevelScore, choose_level, find_level, level_cost, levels_of
from overread.errors import UserError


def built(**options: object):
    return ARCHITECTURES["unet_sharp"].build(
        {"width": 32, "connection": "direct", "deep_supervision": True} | options, in_channels=3, classes=2
    )


def score(level: int, dice: float) -> LevelScore:
    cost = LevelCost(level=level, parameters=level, size=(16, 16), flops=level, seconds=1.0)
    return LevelScore(cost=cost, seconds_per_case=2.0, dice=dice, iou=dice, pooled_iou=dice, cases=3)


def test_levels_have_the_parameters_of_the_paper_and_the_flops_of_their_convolutions():
    segmenter = built(level=2)
    first, second = (level_cost(segmenter, v, in_channels=3, size=(16, 16), repeats=1) for v in levels_of(segmenter))
    assert (first.level, first.parameters) == (1, 103_041)
    assert (second.level, second.parameters) == (2, 555_969)
    # L1: x00 3->32->32 and x01 96->32->32 at 16 x 16, x10 32->64->64 at 8 x 8, head 32->1; twice the multiplications
    inner = 9 * (3 * 32 + 32 * 32 + 96 * 32 + 32 * 32) * 256 + 9 * (32 * 64 + 64 * 64) * 64 + 32 * 256
    assert first.flops == 2 * inner
    assert second.flops > first.flops
    assert first.seconds > 0
    assert first.sides == "16x16"


def test_the_smallest_level_within_the_tolerance_is_chosen():
    scores = [score(1, 0.80), score(2, 0.896), score(3, 0.90), score(4, 0.89)]
    assert choose_level(scores, 0.005).cost.level == 2
    assert choose_level(scores, 0.0).cost.level == 3
    assert choose_level(scores, 0.1).cost.level == 1


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_is_a_part_of_one(tolerance):
    with pytest.raises(UserError, match="at least 0 and below 1"):
        choose_level([score(1, 0.5)], tolerance)


def test_a_level_above_the_trained_depth_is_refused():
    segmenter = built(level=2, width=4)
    with pytest.raises(UserError, match=r"one of those trained \(1, 2\), but got 3"):
        find_level(segmenter, 3)


def test_a_network_without_levels_is_refused():
    for options in ({"deep_supervision": False}, {"wiring": "full_scale"}):
        with torch.device("meta"):
            segmenter = built(**options)
        with pytest.raises(UserError, match="train unet_sharp with deep_supervision"):
            levels_of(segmenter)
