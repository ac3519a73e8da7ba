"""What a network adds to the ensemble, by hand: rows of four pixels, one class."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from overread.architectures import build_segmenter
from overread.ensemble.gain import Gain, gains_of, keep_readings, measure_gains
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.training.checkpoint import save_weights

TRUTHS = {"x": np.array([1, 1, 0, 0], np.uint8), "y": np.array([0, 1, 1, 0], np.uint8)}
READ = {
    "old": {"x": [0.9, 0.4, 0.2, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},  # misses one of two in x, right in y
    "new": {"x": [0.9, 0.9, 0.1, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},
    "copy": {"x": [0.9, 0.4, 0.2, 0.1], "y": [0.1, 0.9, 0.9, 0.1]},
}


PANEL = {  # pixels 0 and 1 are true in every case
    "first": {"easy": [1, 1, 0, 0], "half": [1, 0, 0, 0], "hard": [0, 0, 1, 0]},
    "junk": {"easy": [1, 1, 0, 0], "half": [0.1, 0, 0.9, 0], "hard": [0, 0, 0.1, 0.9]},
    "second": {"easy": [1, 1, 0, 0], "half": [1, 0.6, 0, 0], "hard": [0, 0, 1, 0]},
    "good": {"easy": [1, 1, 0, 0], "half": [1, 1, 0, 0], "hard": [0, 0, 1, 0]},
}


def read(member: str, case: str) -> np.ndarray:
    values = np.asarray((READ | PANEL)[member][case], np.float32)
    return np.stack([1 - values, values])


def measure(members: tuple[str, ...], network: str = "new") -> Gain:
    return measure_gains(members, [network], read, TRUTHS, ["p", "q"])[network]


def test_a_network_is_worth_what_the_ensemble_lacked() -> None:
    found = measure(("old",))
    # x: Dice 2/3 alone, 1 with it; y: 1 before and after
    assert found.gain == pytest.approx((1 / 3 + 0) / 2) and found.dice == pytest.approx(1.0)
    assert found.error == pytest.approx(1 / 6)  # sd of (1/3, 0) by sqrt 2
    assert found.aurc == 0.0
    # one member has no confidence that a second one could better
    assert found.aurc_gain == 0.0
    assert found.value("gain") == found.value("gain_and_failure") == pytest.approx(1 / 6)


def test_junk_is_not_paid_for_giving_the_first_network_a_confidence() -> None:
    truths = {case: np.array([1, 1, 0, 0], np.uint8) for case in PANEL["first"]}
    # its votes change no mask, so risks stay 0, 1/3 and 1; but it agrees with the first in the easy case alone, and
    # pairwise Dice of 1, 0 and 0 would make AURC 7/27 of a mean risk of 4/9: 5/27, more than the good one is worth
    junk = measure_gains(("first",), ["junk"], read, truths, "pqr")["junk"]
    assert junk.aurc == pytest.approx(7 / 27)
    assert junk.value("gain_and_failure") == 0.0 and not junk.joins("gain_and_failure")
    good = measure_gains(("first", "second"), ["good"], read, truths, "pqr")["good"]
    # half: 1.6 of 3 votes for pixel 1, which had 0.6 of 2: Dice 2/3 becomes 1; the others stay
    assert good.gain == pytest.approx(1 / 9)
    # pairwise Dice was 1, 2/3, 1: AURC (1/2 + 1/2 + 4/9) / 3; it is 1, 7/9, 1: (1/2 + 1/2 + 1/3) / 3
    assert good.aurc_gain == pytest.approx(1 / 27) and good.joins("gain_and_failure")
    assert good.error == pytest.approx(1 / 9)  # sd of (0, 1/3, 0) by sqrt 3
    # gain and fall of AURC without easy are 1/6 + 1/12, without half 0 + 0, without hard 1/6 + 1/12
    assert good.joint_error == pytest.approx((2 / 3 * (2 / 144 + 1 / 36)) ** 0.5)


def test_all_networks_are_measured_at_once_and_members_against_the_others() -> None:
    truths = {case: np.array([1, 1, 0, 0], np.uint8) for case in PANEL["first"]}
    members, names = ("first", "second"), ("good", "first", "second", "junk")
    found = measure_gains(members, names, read, truths, "pqr")
    assert list(found) == list(names)
    assert found["good"] == measure_gains(members, ["good"], read, truths, "pqr")["good"]
    assert found["first"].members == ("second",) and found["second"].members == ("first",)
    # the second alone has pixel 1 of half, the first takes it away: 0.6 of 2
    assert found["first"].gain == pytest.approx(-1 / 9) and found["second"].gain == 0.0
    alone = measure_gains(("first",), ["first"], read, truths, "pqr")["first"]
    assert alone.members == () and alone.value("gain_and_failure") == 0.0


def test_a_member_is_measured_as_if_it_came_last() -> None:
    generator = np.random.default_rng(0)
    sure = {name: generator.integers(0, 2, (20, 4)) for name in ("a", "b", "c")}  # 0 or 1: two others tie in half
    sure["c"] = sure["c"] * generator.integers(0, 256, (20, 4)) / 255
    truths = {str(at): np.array([1, 1, 0, 0], np.uint8) for at in range(20)}

    def read(name: str, case: str) -> np.ndarray:
        values = (sure[name][int(case)]).astype(np.float32)
        return np.stack([1 - values, values])

    new = measure_gains(("a", "b"), ["c"], read, truths, list(truths))["c"]
    assert measure_gains(("a", "b", "c"), ["c"], read, truths, list(truths))["c"] == new
    assert measure_gains(("a", "c", "b"), ["c"], read, truths, list(truths))["c"] == new


def test_a_copy_adds_nothing() -> None:
    found = measure(("old",), "copy")
    assert found.gain == 0.0 and not found.joins("gain")


def test_the_first_network_founds_the_ensemble_at_no_gain() -> None:
    found = measure(())
    assert (found.gain, found.aurc_gain, found.dice) == (0.0, 0.0, pytest.approx(1.0)) and found.joins("gain")


def test_a_member_must_gain_more_than_noise_once_there_are_three() -> None:
    gain = Gain(members=("a", "b"), dice=0.8, gain=0.01, error=0.02, joint_error=0.04, aurc=0.1, aurc_gain=0.05)
    assert gain.joins("gain")
    three = replace(gain, members=("a", "b", "c"))
    assert not three.joins("gain") and three.joins("gain_and_failure")
    assert not replace(three, joint_error=0.07).joins("gain_and_failure")
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
    paths = {"0": tmp_path / "0.npz", "copy": tmp_path / "0.npz", "1": tmp_path / "1.npz"}
    found = gains_of(prepared, cases, ("0",), ("copy", "1"), paths)
    assert found["copy"].members == ("0",) and found["copy"].gain == 0.0
    assert 0 <= found["1"].dice <= 1
