"""The tables of UNet#: rows with and without supervision, levels, images without foreground, another tool's masks."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overread.architectures.contract import build_segmenter
from overread.architectures.unet_sharp import UNetSharpSegmenter
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.store import open_case
from overread.errors import UserError
from overread.reproduction import PAPERS, unetsharp
from overread.reproduction.configs import options_at
from overread.reproduction.measuring import TestCase
from overread.reproduction.program import ReproductionSettings, choose_rows, reproduce
from overread.reproduction.results import CaseMeasures, RowResult
from overread.testing.tiny import tiny_config, tiny_prepared

ROWS = ("UNet", "UNet# DS", "UNet# CGM")


def result(*cases: dict[str, float | None]) -> RowResult:
    measures = tuple(
        CaseMeasures(case=str(i), group=str(i), has_foreground=True, values=values) for i, values in enumerate(cases)
    )
    return RowResult(row="r", parameters=1, steps=1, seconds=1.0, epochs=(), cases=measures)


def test_pooled_measures_by_hand():
    both = result(
        {"tp": 3.0, "fp": 1.0, "fn": 0.0, "soft_overlap": 2.0, "soft_total": 5.0},
        {"tp": 0.0, "fp": 2.0, "fn": 4.0, "soft_overlap": 0.0, "soft_total": 3.0},
    )
    assert unetsharp.pooled_iou(both) == pytest.approx(3 / 10)
    assert unetsharp.soft_dice(both) == pytest.approx(4 / 8)
    assert unetsharp.pooled_iou(result({})) is None


def test_one_pass_measures_all_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(
        architecture="unet_sharp", options={"width": 4, "level": 2, "deep_supervision": True}, patch_size=(8, 8)
    )
    segmenter = build_segmenter(config).eval()
    with torch.no_grad():
        segmenter.heads["x01"].bias.fill_(9.0)  # level 1 finds everything, level 2 nothing
        segmenter.heads["x02"].bias.fill_(-9.0)
    prepared = tiny_prepared(tmp_path, cases=1)
    case = TestCase("UNet# DS", segmenter, config, prepared, "case0", unetsharp.PROTOCOLS["small"], "cpu")
    passes, read = [], segmenter.read
    monkeypatch.setattr(segmenter, "read", lambda *args, **kw: passes.append(kw["variant"]) or read(*args, **kw))
    values = unetsharp.measure(case)
    assert [variant and variant.name for variant in passes] == ["main", None]  # the mean of the heads, and the heads
    assert [values[f"level_1_{count}"] for count in ("tp", "fp", "fn")] == [16, 48, 0]  # a square of 4 x 4 in 8 x 8
    assert [values[f"level_2_{count}"] for count in ("tp", "fp", "fn")] == [0, 0, 16]
    assert (values["level_1_jaccard"], values["level_2_jaccard"]) == (16 / 64, 0)
    plain = tiny_config(architecture="unet_sharp", options={"width": 4, "level": 2}, patch_size=(8, 8))
    single = replace(case, segmenter=build_segmenter(plain).eval())
    assert set(unetsharp.measure(single)) == {"soft_overlap", "soft_total"}


def test_a_guided_network_is_also_measured_with_its_gates_open(tmp_path: Path) -> None:
    options = {"width": 4, "level": 1, "deep_supervision": True, "guidance": True}
    config = tiny_config(architecture="unet_sharp", options=options, patch_size=(8, 8))
    segmenter = build_segmenter(config).eval()
    assert isinstance(segmenter, UNetSharpSegmenter)
    with torch.no_grad():
        segmenter.heads["x01"].bias.fill_(9.0)  # finds everything, but its guide says that there is nothing
        segmenter.guides["x01"].layers[-1].weight.zero_()
        segmenter.guides["x01"].layers[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    prepared = tiny_prepared(tmp_path, cases=1)
    case = TestCase("UNet# CGM", segmenter, config, prepared, "case0", unetsharp.PROTOCOLS["small"], "cpu")
    values = unetsharp.measure(case)
    assert case.rates(case.main.argmax(0))["dice"] == 0
    assert [values[f"ungated_{count}"] for count in ("tp", "fp", "fn")] == [16, 48, 0]
    assert values["ungated_dice"] == pytest.approx(2 * 16 / (64 + 16))
    assert not case.read(segmenter.variant("main")).argmax(0).any()  # the gates are closed again


def test_images_without_foreground_with_and_without_gates():
    empty = {"dice": 0.0, "fp": 5.0, "ungated_dice": 0.0, "ungated_fp": 9.0}
    closed = {"dice": 1.0, "fp": 0.0, "ungated_dice": 0.0, "ungated_fp": 2.0}
    there = {"dice": 0.5, "fp": 1.0, "ungated_dice": 0.75, "ungated_fp": 1.0}
    cases = [
        CaseMeasures(case=str(i), group=str(i), has_foreground=values is there, values=values)
        for i, values in enumerate((empty, closed, there))
    ]
    guided = RowResult(row="UNet# CGM", parameters=1, steps=1, seconds=1.0, epochs=(), cases=tuple(cases))
    grid = unetsharp.table_of_normals({"UNet# CGM": guided, "UNet#": replace(guided, row="UNet#")})
    assert [row[:3] for row in grid.rows] == [
        ("UNet#", "1 of 2", "50.00"),
        ("UNet# CGM", "1 of 2", "50.00"),
        ("UNet# CGM, gates open", "2 of 2", "100.00"),
    ]
    assert grid.rows[2][3].startswith("75.00")


def test_the_core_rows_are_those_of_table_1():
    paper = PAPERS["unetsharp"]
    core = [row.name for row in choose_rows(paper, ["core"])]
    assert core == ["UNet", "UNet2+", "UNet2+ DS", "UNet3+", "UNet3+ DS", "UNet#", "UNet# DS"]
    assert options_at(paper.row("WUNet"), 1.0)["width"] == 35
    assert options_at(paper.row("UNet#"), 0.5)["width"] == 16
    with pytest.raises(UserError, match=r"'nnU-Net' cannot be trained here: give its masks by --imported"):
        choose_rows(paper, ["nnU-Net"])
    assert "nnU-Net" not in {row.name for row in choose_rows(paper, ["all"])}


@pytest.mark.ray
def test_tables_levels_and_imported_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(
        unetsharp.PROTOCOLS["small"], max_side=32, width=1 / 16, steps=4, validations=2, folds=2, batch_size=4
    )
    rows = tuple(row for row in PAPERS["unetsharp"].rows if row.name in (*ROWS, "nnU-Net"))
    monkeypatch.setitem(
        PAPERS._entries, "unetsharp", replace(PAPERS["unetsharp"], rows=rows, protocols={"small": small})
    )
    data = write_phantom(tmp_path / "DSB-phantom", PhantomSettings(cases=16, size=32, seed=1))
    settings = ReproductionSettings(
        paper="unetsharp", data=data, out=tmp_path / "out", rows=ROWS, cache=tmp_path / "cache"
    )
    masks = tmp_path / "nnunet"
    masks.mkdir()
    with session(num_cpus=2):
        first = reproduce(settings, ray_map)
        with pytest.raises(UserError, match="must hold a mask of the test case"):
            reproduce(replace(settings, imported={"nnU-Net": masks}), ray_map)
        for case in first.prepared.splits.locked:
            truth = np.asarray(open_case(first.prepared, case).truth)
            Image.fromarray((truth > 0).astype(np.uint8) * 255).save(masks / f"{case}.png")
        second = reproduce(replace(settings, imported={"nnU-Net": masks}), ray_map)
    assert second.results["nnU-Net"].summary("dice").mean == 1.0
    assert unetsharp.pooled_iou(second.results["nnU-Net"]) == 1.0
    values = second.results["UNet# DS"].cases[0].values
    assert {"level_1_jaccard", "level_4_jaccard", "level_4_tp", "soft_overlap"} <= set(values)
    tables = sorted((tmp_path / "out" / "tables").glob("*.csv"))
    read = {path.name.split("-", 1)[1]: list(csv.reader(path.open())) for path in tables}
    table_1 = {row[0]: row for row in read["table-1-iou-with-and-without-deep-supervision-ds.csv"]}
    assert table_1["UNet"][-2] == "90.15"  # print: the name says DSB
    assert table_1["UNet# DS"][-2] == "92.67"
    table_3 = {row[0]: row for row in read["table-3-other-models.csv"]}
    assert table_3["nnU-Net"][2] == "100.00"
    levels = read["figure-7-in-figures-pruning-levels-of-unet-ds.csv"]
    parameters = [int(row[1].replace(",", "")) for row in levels[1:]]
    assert [row[0] for row in levels[1:]] == ["L1", "L2", "L3", "L4"]
    assert parameters == sorted(parameters) and not math.isnan(parameters[0])
    for figure in ("fig05-06-iou.png", "fig07-pruning.png", "training-curves.png", "examples.png"):
        assert (tmp_path / "out" / "figures" / figure).stat().st_size > 1000
    assert "masks imported" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "splits.json").is_file()


@pytest.mark.ray
def test_3d_rows_need_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solid = replace(unetsharp.PROTOCOLS["small"], spatial_dims=3, max_side=32)
    rows = tuple(row for row in PAPERS["unetsharp"].rows if row.name == "UNet")
    monkeypatch.setitem(
        PAPERS._entries, "unetsharp", replace(PAPERS["unetsharp"], rows=rows, protocols={"small": solid})
    )
    data = write_phantom(tmp_path / "data", PhantomSettings(cases=12, size=16))
    settings = ReproductionSettings(paper="unetsharp", data=data, out=tmp_path / "out", cache=tmp_path / "cache")
    with session(num_cpus=2), pytest.raises(UserError, match="3-D training must have volumes"):
        reproduce(settings, ray_map)
