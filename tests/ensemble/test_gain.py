"""What a network adds to the ensemble, by hand: rows of four pixels, one class."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.architectures import build_segmenter
from overread.ensemble.gain import Gain, gain_of, keep_readings, measure_gain
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.training.checkpoint import save_weights

TRUTHS = {"x": np.array([1, 1, 0, 0], np.uint8), "y": np.array([0, 1, 1, 0], np.uint8)}
READ = {
    "old": {"x": [0.9, 0.4, 0.2, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},  # misses one of two in x, right in y
    "": {"x": [0.9, 0.9, 0.1, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},
    "copy": {"x": [0.9, 0.4, 0.2, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},
}


def read(member: str, case: str) -> np.ndarray:
    values = np.asarray(READ[member][case], np.float32)
    return np.stack([1 - values, values])


def test_a_network_is_worth_what_the_ensemble_lacked() -> None:
    found = measure_gain(("old",), read, TRUTHS, ["p", "q"])
    # x: Dice 2/3 alone, 1 with it; y: 1 before and after
    assert found.gain == pytest.approx((1 / 3 + 0) / 2) and found.dice == pytest.approx(1.0)
    assert found.error == pytest.approx(1 / 6)  # sd of (1/3, 0) by sqrt 2
    assert found.aurc == 0.0
    # one member orders nothing: all cases tie, and the expected mean risk is (1/3) / 2 at both coverages
    assert found.aurc_gain == pytest.approx(1 / 6)
    assert found.value("gain") == pytest.approx(1 / 6)
    assert found.value("gain_and_failure") == pytest.approx(1 / 3)


def test_a_copy_adds_nothing() -> None:
    found = measure_gain(("old",), lambda member, case: read(member or "copy", case), TRUTHS, ["p", "q"])
    assert found.gain == 0.0 and not found.joins("gain")


def test_the_first_network_founds_the_ensemble_at_no_gain() -> None:
    found = measure_gain((), read, TRUTHS, ["p", "q"])
    assert (found.gain, found.aurc_gain, found.dice) == (0.0, 0.0, pytest.approx(1.0)) and found.joins("gain")


def test_a_member_must_gain_more_than_noise_once_there_are_three() -> None:
    gain = Gain(members=("a", "b"), dice=0.8, gain=0.01, error=0.02, aurc=0.1, aurc_gain=0.05)
    assert gain.joins("gain")
    three = replace(gain, members=("a", "b", "c"))
    assert not three.joins("gain") and three.joins("gain_and_failure")
    assert not replace(gain, members=tuple("abcdefgh"), gain=0.5).joins("gain")  # full
    assert not replace(gain, gain=0.0).joins("gain")


@pytest.fixture
def tiny() -> Iterator[None]:
    with tiny_architecture():
        yield


def test_gain_of_trained_networks_from_their_files(tiny: None, tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path / "data", cases=6)
    cases = prepared.splits.fold(0).validation
    config = tiny_config()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_weights(tmp_path / f"{seed}.safetensors", build_segmenter(config))
        keep_readings(tmp_path / f"{seed}.npz", prepared, cases, config, tmp_path / f"{seed}.safetensors", "cpu")
    same = gain_of(prepared, cases, {"0": tmp_path / "0.npz"}, tmp_path / "0.npz")
    assert same.members == ("0",) and same.gain == 0.0
    other = gain_of(prepared, cases, {"0": tmp_path / "0.npz"}, tmp_path / "1.npz")
    assert 0 <= other.dice <= 1
