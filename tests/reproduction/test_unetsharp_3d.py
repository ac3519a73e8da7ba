"""Volumes: what a volume is measured by, and the table, the differences and the figure made of results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.architectures.contract import build_segmenter
from overread.records import Prepared
from overread.reproduction import PAPERS
from overread.reproduction import unetsharp_3d as volumes
from overread.reproduction.configs import options_at
from overread.reproduction.cost import published_parameters
from overread.reproduction.measuring import TestCase
from overread.reproduction.program import choose_rows
from overread.reproduction.results import CaseMeasures, Findings, RowResult
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared

PAPER = PAPERS[volumes.NAME]
SMALL = PAPER.protocols["small"]


def result(row: str, *jaccard: float) -> RowResult:
    cases = tuple(
        CaseMeasures(
            case=f"case{i}",
            group=f"case{i}",
            has_foreground=True,
            values={"jaccard": value, "dice": 0.5, "class_dice": 0.25, "tp": 100 * value, "fp": 0.0, "fn": 40.0},
        )
        for i, value in enumerate(jaccard)
    )
    return RowResult(row=row, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    return replace(tiny_prepared(tmp_path / "data", cases=2, shape=(8, 8, 8), volumes=True), dataset="Luna16")


def test_rows_are_those_of_the_paper() -> None:
    assert [row.name for row in PAPER.rows] == [
        "V-Net", "WV-Net", "V-Net2+", "V-Net2+ DS", "V-Net3+", "V-Net3+ DS", "V-Net#", "V-Net# DS",
    ]  # fmt: skip
    assert [row.name for row in choose_rows(PAPER, ["core"])] == ["V-Net#"]
    assert published_parameters(PAPER.row("WV-Net")) == 33_396_373
    options = options_at(PAPER.row("V-Net# DS"), SMALL.width, SMALL.options)
    assert (options["width"], options["level"], options["project_first"]) == (8, 3, True)
    assert (options["encoder"], options["deep_supervision"]) == ("v_net", True)


def test_a_volume_is_measured_by_the_mean_over_its_classes(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(classes=3, spatial_dims=3, patch_size=(8, 8, 8))
    with tiny_architecture():
        segmenter = build_segmenter(config)
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[0, 0, :4], truth[1, 0, :4] = 1, 2
    np.save(Path(data.root) / "cases" / "00000" / "truth.npy", truth)
    mask = truth.copy()
    mask[1, 0, 2:4] = 0  # of class 2 a half is found: Dice 4 / 6
    case = TestCase("V-Net#", segmenter, config, replace(data, label_names=("background", "a", "b"),
                    label_values=(0, 1, 2)), "case0", SMALL, "cpu")  # fmt: skip
    read = np.stack([mask == label for label in range(3)]).astype(np.float32)
    monkeypatch.setattr(TestCase, "probabilities", lambda self: read)
    assert volumes.measure(case) == {"class_dice": pytest.approx((1 + 4 / 6) / 2)}


def test_tables_have_ours_beside_print(data: Prepared) -> None:
    rows = {"V-Net#": result("V-Net#", 0.5, 0.75), "V-Net# DS": result("V-Net# DS", 0.75, 0.75)}
    table, differences = volumes.exhibits(Findings(PAPER, "small", SMALL, data, rows))
    found = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    mine = found["V-Net#"]
    assert (mine["IoU, ours"][:5], mine["Dice, ours"][:5], mine["class Dice, ours"][:5]) == ("62.50", "50.00", "25.00")
    assert mine["pooled IoU, ours"] == "60.98"  # 125 / (125 + 80)
    assert [found[name]["IoU, printed"] for name in ("V-Net", "V-Net#", "V-Net# DS")] == ["71.21", "77.69", "79.45"]
    assert found["V-Net"]["IoU, ours"] == "not trained here"
    ((name, difference),) = differences.rows  # V-Net itself is not trained
    assert name == "V-Net# DS minus V-Net#"
    assert "12.5" in difference


def test_the_spread_over_volumes_is_drawn_for_trained_rows(data: Prepared, tmp_path: Path) -> None:
    findings = Findings(PAPER, "small", SMALL, data, {"V-Net#": result("V-Net#", 0.5, 0.75)})
    (path,) = volumes.pictures(findings, tmp_path / "figures")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert volumes.pictures(replace(findings, results={}), tmp_path) == ()
