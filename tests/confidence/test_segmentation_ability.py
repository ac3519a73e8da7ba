import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from overread.confidence.segmentation_ability import (
    LayerDice,
    binary_map,
    centred_logits,
    margin,
    soft_assignment,
)

Array = NDArray[np.floating]


def test_margin_by_hand() -> None:
    # p+ = (1 * 3 + 1 * 5) / 2 = 4, p- = (0 + 2) / 2 = 1: nearer to 4 from 2.5 on
    found = margin(np.array([[0.0, 2.0, 3.0, 5.0]]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert found == pytest.approx([1 - 16, 1 - 4, 4 - 1, 16 - 1], abs=1e-6)


def test_prototypes_are_weighted_by_the_probability() -> None:
    # p+ = (0.25 * 0 + 0.75 * 4) / 1 = 3, p- = (0.75 * 0 + 0.25 * 4) / 1 = 1
    found = margin(np.array([[0.0, 4.0]]), np.array([0.25, 0.75]))
    assert found == pytest.approx([1 - 9, 9 - 1], abs=1e-6)


def test_distances_are_over_all_channels() -> None:
    # p+ = (2, 0), p- = (0, 1) and (0, 3) -> (0, 2): the first voxel (2, 0) has distances 0 and 8
    features = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    foreground = np.array([1.0, 0.0, 0.0])
    assert margin(features, foreground) == pytest.approx([8, 1 - 5, 1 - 13], abs=1e-6)
    assert binary_map(features, foreground).tolist() == [True, False, False]


def test_voxels_that_are_not_valid_make_no_prototype() -> None:
    features, foreground = np.array([[0.0, 2.0, 3.0, 90.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    valid = np.array([True, True, True, False])
    assert margin(features, foreground, valid)[:3] == pytest.approx([1 - 9, 1 - 1, 4 - 0], abs=1e-5)


def test_small_maps_are_resized_linearly() -> None:
    # 0 and 8 at four times the size: pixel centres at -0.375, -0.125, 0.125, ... of the small grid, ends clamped
    large = np.array([0, 0, 1, 3, 5, 7, 8, 8])
    foreground = np.array([0, 0, 0, 0, 0, 0, 1.0, 1.0])
    positive, negative = 8, 16 / 6
    expected = (large - negative) ** 2 - (large - positive) ** 2
    assert margin(np.array([[0.0, 8.0]]), foreground) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("small", [(4, 6), (8, 12), (2, 12), (2, 3, 4), (4, 6, 8)])
def test_equals_the_formula_on_enlarged_maps(small: tuple[int, ...]) -> None:
    """Prototypes, distances and softmax at full resolution, resized by PyTorch."""
    rng = np.random.default_rng(0)
    size = (8, 12) if len(small) == 2 else (4, 6, 16)
    features, foreground = rng.normal(size=(5, *small)), rng.random(size)
    valid = rng.random(size) > 0.2
    mode = "bilinear" if len(small) == 2 else "trilinear"
    large = F.interpolate(torch.from_numpy(features)[None], size=size, mode=mode, align_corners=False)[0].numpy()
    assert soft_assignment(features, foreground, valid) == pytest.approx(plain(large, foreground, valid), abs=1e-5)
    everywhere = np.ones(size, bool)
    assert soft_assignment(features, foreground) == pytest.approx(plain(large, foreground, everywhere), abs=1e-5)


def plain(features: Array, foreground: Array, valid: NDArray[np.bool_]) -> Array:
    axes = tuple(range(1, features.ndim))
    distances = []
    for weights in ((1 - foreground) * valid, foreground * valid):
        prototype = (features * weights).sum(axes, keepdims=True) / (weights.sum() + 1e-8)
        distances.append(((features - prototype) ** 2).sum(0))
    scores = np.exp(-np.stack(distances))
    return scores[1] / scores.sum(0)


def test_larger_maps_are_averaged() -> None:
    features = np.array([[1.0, 3.0, 9.0, 11.0]])
    assert binary_map(features, np.array([0.1, 0.9])).tolist() == [False, True]


def test_a_feature_that_is_the_mask_gives_the_mask() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    unsure = np.where(mask, 0.4, 0.2)  # even where no voxel is segmented
    assert np.array_equal(binary_map(mask[None].astype(np.float32), unsure), mask)


def test_ties_are_background() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert not binary_map(np.full((3, 4, 4), 0.1, np.float32), np.linspace(0, 1, 16).reshape(4, 4)).any()  # constant
    assert not binary_map(features, np.full((4, 4), 0.3)).any()  # every voxel weighs the same in both prototypes
    assert not binary_map(features, np.full((4, 4), 0.3), np.zeros((4, 4), bool)).any()


def test_a_constant_channel_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    features, foreground = rng.normal(size=(2, 4, 4)).astype(np.float32), rng.random((8, 8))
    constant = np.full((1, 4, 4), 1e6 / 3, np.float32)
    assert margin(np.concatenate([features, constant]), foreground) == pytest.approx(margin(features, foreground))


def test_many_channels_are_never_enlarged() -> None:
    features = np.random.default_rng(0).normal(size=(512, 16, 16)).astype(np.float32)
    foreground = np.linspace(0, 1, 512 * 512).reshape(512, 512)
    margin(features, foreground)  # caches the matrices
    tracemalloc.start()
    margin(features, foreground)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * foreground.nbytes  # the enlarged maps would be 512 times as large


def test_blocks_of_channels_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(7, 4, 4))
    foreground = np.linspace(0, 1, 16).reshape(4, 4)
    whole = margin(features, foreground)
    monkeypatch.setattr("overread.confidence.segmentation_ability.BLOCK", 40)
    assert margin(features, foreground) == pytest.approx(whole)


def test_centred_logits_by_hand() -> None:
    found = centred_logits(np.array([[0.5, 0.9, 1.0], [0.5, 0.1, 0.0]], np.float32))
    half = np.log(9) / 2
    assert found[:, :2] == pytest.approx(np.array([[0, half], [0, -half]]), abs=1e-6)
    assert found[1, 2] == pytest.approx(np.log(1e-7) / 2, rel=1e-6)  # a probability of 0 stays finite


def test_centred_logits_are_those_of_the_head_up_to_their_mean() -> None:
    logits = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert centred_logits(logits.softmax(0).numpy()) == pytest.approx((logits - logits.mean(0)).numpy(), abs=1e-5)


def test_dice_of_a_case_is_over_its_slices() -> None:
    found, ones = LayerDice(), np.ones(4, bool)
    found.add("a", np.array([1, 1, 0, 0], bool), np.array([1, 0, 0, 0], bool))
    found.add("b", ones, ones)
    found.add("a", np.array([1, 1, 1, 1], bool), ~ones, valid=np.array([0, 0, 0, 1], bool))
    # a: 1 in common of 2 + 1 in the first slice; in the second one valid voxel, found only
    assert found.scores() == [("a", pytest.approx(2 / (3 + 1))), ("b", 1.0)]


def test_dice_of_empty_maps() -> None:
    found, empty = LayerDice(), np.zeros(4, bool)
    found.add("both", empty, empty)
    found.add("one", ~empty, empty)
    assert dict(found.scores()) == {"both": 1.0, "one": 0.0}
