"""What a row's readings of a test case are measured by, on masks drawn by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from overread.data.store import open_case
from overread.errors import UserError
from overread.records import Prepared
from overread.reproduction.measuring import TestCase, measure_mask
from overread.reproduction.paper import Protocol
from overread.testing.tiny import tiny_config, tiny_prepared

TRUTH = np.zeros((8, 8), np.uint8)
TRUTH[:2] = 1  # two rows of eight
CONFIG = tiny_config(patch_size=(4, 12))


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    found = tiny_prepared(tmp_path / "prepared", cases=3)
    np.save(found.folder(found.case("case0")) / "truth.npy", TRUTH)
    return found


def case_of(prepared: Prepared, anchors: int = 5, **sets: tuple[str, ...]) -> TestCase:
    segmenter: Any = SimpleNamespace(relation_sets=lambda: sets)
    protocol = Protocol(max_side=8, width=1.0, anchors=anchors)
    return TestCase("row", segmenter, CONFIG, prepared, "case0", protocol, "cpu")


def rows(first: int, last: int) -> np.ndarray:
    """Return probabilities (2, 8, 8) that mark some rows."""
    mask = np.zeros((8, 8), np.float32)
    mask[first:last] = 1
    return np.stack([1 - mask, mask])


def test_every_reading_has_a_dice_and_a_set_its_score(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = {"a": rows(0, 2), "b": rows(1, 3), "apart": rows(0, 4)}
    monkeypatch.setattr(TestCase, "alternatives", lambda _: iter(readings.items()))
    assert case_of(prepared, c=("a", "b")).relation_scores() == pytest.approx(
        {"dice_a": 1.0, "dice_b": 1 / 2, "dice_apart": 2 / 3, "c": 1 / 2}
    )
    assert case_of(prepared).relation_scores() == {}  # a network that compares nothing


def test_passes_have_their_score_alone(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"pass_{i}" for i in range(11))

    def passes(_: TestCase) -> Iterator[tuple[str, np.ndarray]]:
        for i, name in enumerate(names):
            yield name, rows(0, 4 if i else 2)

    monkeypatch.setattr(TestCase, "alternatives", passes)
    assert case_of(prepared, c=names).relation_scores() == {"c": pytest.approx(2 / 3)}  # two rows of four


def test_a_mask_is_measured_merged_and_by_class(prepared: Prepared) -> None:
    np.save(prepared.folder(prepared.case("case0")) / "truth.npy", TRUTH * 2)
    case = case_of(replace(prepared, label_names=("background", "a", "b"), label_values=(0, 1, 2)))
    found = rows(0, 2)[1].astype(np.uint8)  # the right voxels, of the wrong class
    assert case.rates(found)["dice"] == 1
    assert case.counts(found, "x_") == {"x_tp": 16, "x_fp": 0, "x_fn": 0}
    assert case.class_dice(found) == 0


def test_anchors_are_cut_from_other_cases(prepared: Prepared) -> None:
    cases = [case.id for case in prepared.cases]
    images = case_of(prepared).anchors(cases).images
    assert images.shape == (2, 1, 4, 12)  # one slice each, cut along the rows and padded along the columns
    cut = {image[0, :, 2:10].numpy().tobytes() for image in images}
    assert cut == {np.ascontiguousarray(open_case(prepared, c).image[0, 0, 2:6]).tobytes() for c in cases[1:]}
    assert len(case_of(prepared, anchors=1).anchors(cases).images) == 1
    with pytest.raises(UserError, match="anchors must be of other cases than case0"):
        case_of(prepared).anchors(["case0"])


def test_masks_of_other_tools_are_measured(prepared: Prepared, tmp_path: Path) -> None:
    Image.fromarray(rows(0, 4)[1].astype(np.uint8)).save(tmp_path / "case0.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "case1.png")
    found = measure_mask(tmp_path, prepared, "case0", fold=2)
    assert (found.case, found.group, found.fold, found.has_foreground) == ("case0", "case0", 2, True)
    assert found.values["dice"] == pytest.approx(2 / 3)
    assert [found.values[name] for name in ("tp", "fp", "fn")] == [16, 16, 0]
    with pytest.raises(UserError, match=r"case1\.png must have the shape \(8, 8\) of its case, but has \(8, 9\)"):
        measure_mask(tmp_path, prepared, "case1")
    with pytest.raises(UserError, match="must hold a mask of the test case case2"):
        measure_mask(tmp_path, prepared, "case2")
