"""Readings kept small: what rounding does to them, and files that can be read again."""

from pathlib import Path

import numpy as np
import pytest

from overread.ensemble.readings import decode, encode, read_reading, write_readings
from overread.errors import UserError


def test_codes_keep_probabilities_to_half_a_step() -> None:
    drawn = np.random.default_rng(0).dirichlet(np.ones(4), 500).T.astype(np.float32)
    back = decode(encode(drawn))
    assert np.abs(back[1:] - drawn[1:]).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_allclose(back.sum(0), 1, atol=2 / 255)


def test_two_classes_never_tie() -> None:
    foreground = np.array([0.499, 0.501, 0.5], np.float32)
    back = decode(encode(np.stack([1 - foreground, foreground])))
    assert back.argmax(0)[:2].tolist() == [0, 1]
    assert (back[0] != back[1]).all()  # an odd number of steps


def test_named_readings_lie_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    codes = {name: np.full((2, 1, 3, 4), value, np.uint8) for name, value in (("a", 0), ("b.c", 51))}
    write_readings(path, codes.items())
    assert read_reading(path, "b.c")[:, 0, 0, 0] == pytest.approx([0.6, 0.2, 0.2])
    assert read_reading(path, "a")[:, 0, 0, 0].tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="must hold the reading x"):
        read_reading(path, "x")
    with pytest.raises(UserError, match="must hold the reading a"):
        read_reading(tmp_path / "none.npz", "a")
