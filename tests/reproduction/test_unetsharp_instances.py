"""Instances: what an image is measured by, precision over all images, and the tables and pictures made of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from overread.architectures.contract import build_segmenter
from overread.records import Prepared
from overread.reproduction import PAPERS, measuring
from overread.reproduction import unetsharp_instances as instances
from overread.reproduction.measuring import TestCase
from overread.reproduction.results import CaseMeasures, Findings, RowResult
from overread.review import figures
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.training.inference import FoundInstances

PAPER = PAPERS[instances.NAME]
CONFIG = tiny_config()


def drawn(**rows: tuple[int, slice, slice]) -> NDArray[np.int32]:
    """Return ids (8, 8) drawn as rectangles."""
    ids = np.zeros((8, 8), np.int32)
    for number, where, columns in rows.values():
        ids[where, columns] = number
    return ids


TRUTH = drawn(a=(3, slice(0, 2), slice(0, 4)), b=(7, slice(4, 6), slice(0, 4)))
# id 1: 6 of the 8 pixels of the first object; ids 2 and 3: the halves of the second; id 4: a row of nothing
FOUND = drawn(
    a=(1, slice(0, 2), slice(0, 3)),
    b=(2, slice(4, 6), slice(0, 2)),
    c=(3, slice(4, 6), slice(2, 4)),
    d=(4, slice(7, 8), slice(0, 8)),
)
SCORES = (0.9, 0.6, 0.4, 0.1)


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    prepared = tiny_prepared(tmp_path / "data", cases=2)
    folder = tmp_path / "data" / "cases" / "00000"
    np.save(folder / "native_instances.npy", TRUTH)
    np.save(folder / "truth.npy", (TRUTH > 0).astype(np.uint8))
    return replace(prepared, dataset="DSB2018")


@pytest.fixture
def case(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> TestCase:
    monkeypatch.setattr(measuring, "predict_instances", lambda *_: FoundInstances(FOUND[None], SCORES))
    with tiny_architecture():
        segmenter = build_segmenter(CONFIG)
    return TestCase("Mask R-CNN#", segmenter, CONFIG, data, "case0", PAPER.protocols["small"], "cpu")


def result(row: str, *cases: CaseMeasures) -> RowResult:
    return RowResult(row=row, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)


def measured(case: TestCase, case_id: str = "case0", **changes: float) -> CaseMeasures:
    values = instances.measure(case) | changes
    lists = instances.measure_lists(case)
    return CaseMeasures(case=case_id, group=case_id, has_foreground=True, values=values, lists=lists)


def test_unsure_objects_are_ranked_but_count_nowhere_else(case: TestCase) -> None:
    values = instances.measure(case)
    assert values["objects"] == 2
    assert values["precision_50"] == 1  # 2 / (2 + 0 + 0)
    assert values["aji"] == pytest.approx((6 + 4) / (8 + 8))
    assert (values["tp"], values["fp"], values["fn"]) == (10, 0, 6)
    assert (values["jaccard"], values["dice"]) == (pytest.approx(10 / 16), pytest.approx(20 / 26))
    assert len(instances.measure_lists(case)["scores"]) == 4


def test_precision_is_over_the_objects_of_all_images(case: TestCase) -> None:
    here = measured(case)
    assert here.lists["scores"] == SCORES
    assert here.lists["hits_0.5"] == (1, 1, 0, 0)  # of two halves the first: there is one object to find
    assert here.lists["hits_0.75"] == (1, 0, 0, 0)
    assert here.lists["hits_0.8"] == (0, 0, 0, 0)
    alone = result("r", here)
    assert [instances.pooled_precision(alone, t) for t in (0.5, 0.75, 0.8)] == [1, 1 / 2, 0]
    nothing = {instances.hits_at(t): (0.0,) for t in instances.THRESHOLDS}
    other = replace(here, case="case1", values={"objects": 1.0}, lists={"scores": (0.7,)} | nothing)
    # ranked: hit, miss (of the other image), hit, miss, miss; three objects
    assert instances.pooled_precision(result("r", here, other), 0.5) == pytest.approx((1 + 2 / 3) / 3)


def test_the_table_has_ours_beside_print_and_the_pairs_beside_it(case: TestCase, data: Prepared) -> None:
    rows = {
        "Mask R-CNN#": result("Mask R-CNN#", measured(case)),
        "Mask R-CNN": result("Mask R-CNN", measured(case, precision_50=0.5)),
    }
    findings = Findings(PAPER, "small", PAPER.protocols["small"], data, rows)
    table, pairs = instances.exhibits(findings)
    found = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(found) == len(PAPER.rows) == 12
    mine = found["Mask R-CNN#"]
    assert mine["AP at 0.5, ours"] == "100.00"
    assert mine["mean AP, ours"] == "35.00"  # 1 at 0.5, 1/2 at 0.55 to 0.75, 0 above
    assert (mine["precision at 0.5, ours"][:6], mine["AJI, ours"][:5]) == ("100.00", "62.50")
    assert (mine["pooled IoU, ours"], mine["Dice, ours"][:5]) == ("62.50", "76.92")
    assert mine["IoU, printed"] == "–"  # noqa: RUF001  (print has two backbones only)
    unread = found["Mask R-CNN# VGG16"]
    assert (unread["AJI, ours"], unread["IoU, printed"]) == ("not trained here", "94.89")
    assert [row[0] for row in pairs.rows] == ["Mask R-CNN# minus Mask R-CNN"]
    assert len(instances.exhibits(replace(findings, results={}))) == 1


def test_the_picture_shows_the_objects_that_are_counted(
    case: TestCase, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(Findings, "opened", lambda self, name, case_id: case)
    monkeypatch.setattr(figures, "coloured", lambda path, panels: shown.append(panels) or path)
    rows = {"Mask R-CNN#": result("Mask R-CNN#", measured(case), measured(case, "case1", precision_50=0.2))}
    networks = {"Mask R-CNN#": ((CONFIG, tmp_path / "weights.safetensors"),)}
    findings = Findings(PAPER, "small", PAPER.protocols["small"], data, rows, networks)
    assert instances.pictures(findings, tmp_path) == (tmp_path / "instances.png",)
    assert [panel.title for panel in shown[0]] == ["case1", "case0"]  # the worst first
    assert np.unique(shown[0][0].ids).tolist() == [0, 1, 2]
    assert instances.pictures(replace(findings, networks={}), tmp_path) == ()
