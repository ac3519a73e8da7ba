import math

import numpy as np
import pytest

from overread.confidence import entropy
from overread.confidence.entropy import negative_entropy, predictive_entropy


def test_entropy_by_hand():
    probabilities = np.array([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]], np.float32)
    expected = [math.log(2), 0, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)]
    np.testing.assert_allclose(predictive_entropy(probabilities), expected)
    uniform = np.full((4, 2, 3), 0.25)
    np.testing.assert_allclose(predictive_entropy(uniform), np.full((2, 3), math.log(4)))


def test_score_is_over_the_predicted_foreground_alone():
    # background; foreground 2 of three classes; foreground 1; a tie with the background, which it wins
    probabilities = np.array([[0.9, 0.25, 0.0, 0.5], [0.05, 0.25, 1.0, 0.5], [0.05, 0.5, 0.0, 0.0]])
    second = 0.5 * math.log(4) + 0.5 * math.log(2)
    assert negative_entropy(probabilities) == pytest.approx(-(second + 0) / 2)


def test_blocks_of_voxels_give_the_mean_over_all(monkeypatch):
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], (4, 5, 2)).transpose(3, 0, 1, 2)
    inside = probabilities.argmax(0) > 0
    expected = -predictive_entropy(probabilities)[inside].mean()
    for block in (1, 7, 40, 1000):
        monkeypatch.setattr(entropy, "BLOCK", block)
        assert negative_entropy(probabilities) == pytest.approx(expected)


def test_surer_is_higher():
    sure, unsure = (negative_entropy(np.array([[1 - p], [p]])) for p in (0.99, 0.6))
    assert -math.log(2) < unsure < sure < 0


def test_an_empty_mask_has_no_score():
    assert negative_entropy(np.array([[0.6, 0.5], [0.4, 0.5]])) is None
