"""DAI-Net's experiments: the teacher comes before the rows that take its maps, and is made once."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.vit import ViTOptions
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.store import open_case
from overread.reproduction import PAPERS, dainet
from overread.reproduction.configs import options_at
from overread.reproduction.cost import published_parameters
from overread.reproduction.program import ReproductionSettings, choose_rows, reproduce
from overread.training.dino import PretrainConfig
from overread.training.multi_crop import MultiCrop
from overread.training.pretraining import OUTCOME, PretrainOutcome

TINY = PretrainConfig(
    vit=ViTOptions(size="tiny", patch=8, depth=1),
    crops=MultiCrop(size=16, local_size=8, local_crops=1),
    outputs=16, hidden=8, bottleneck=4, batch_size=4, epochs=1, warm_up_epochs=0,
)  # fmt: skip


def test_the_core_rows_are_those_of_table_3():
    paper = PAPERS["dainet"]
    core = [row.name for row in choose_rows(paper, ["core"])]
    assert core == ["U-Net", "DAINet single", "DAINet 0000", "DAINet 0001", "DAINet 0111", "DAINet 1111"]
    # 6 heads and 9 classes, as the architecture's published settings
    counts = [published_parameters(paper.row(name)) for name in core[1:]]
    assert counts == [31_046_345, 40_452_425, 42_811_721, 43_549_001, 43_585_865]
    assert options_at(paper.row("DAINet 0111"), 0.25) == {"switches": [False, True, True, True], "width": 16}


def test_the_teacher_of_the_paper() -> None:
    found = dainet.PRETRAINING["paper"]
    vit = found.vit
    assert (vit.size, vit.patch, vit.depth, vit.width, vit.heads) == ("small", 16, 12, 384, 6)
    assert (found.crops.size, found.batch_size, found.epochs, found.learning_rate) == (256, 64, 800, 1e-4)
    assert (found.crops.scale, found.crops.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert (found.hidden, found.bottleneck, found.outputs) == (2048, 256, 65536)
    assert (found.student_temperature, found.first_teacher_temperature, found.teacher_temperature) == (0.1, 0.04, 0.07)
    assert (found.weight_decay, found.last_weight_decay, found.warm_up_epochs) == (0.04, 0.4, 10)
    assert (found.momentum, found.centre_momentum, found.gradient_clip) == (0.996, 0.9, 3.0)


def test_v_net_is_itself_and_on_slices_has_the_counts_that_are_told():
    paper = PAPERS["dainet"]
    rows = {name: paper.row(name) for name in ("V-Net", "DARR")}
    assert [published_parameters(row) for row in rows.values()] == [45_724_114, 45_857_498]
    with torch.device("meta"):
        networks = [
            ARCHITECTURES["darr"].build(row.options, in_channels=1, classes=9, spatial_dims=2) for row in rows.values()
        ]
    assert [count_parameters(network) for network in networks] == [9_389_177, 9_521_533]
    assert options_at(rows["V-Net"], 0.25) == {"pieces": 1, "width": 8}


def test_printed_differences():
    assert dainet._printed_difference("DAINet 1111", "U-Net", "ACDC") == "+0.33"
    assert dainet._printed_difference("DAINet single", "U-Net", "ACDC") == "-1.19"
    assert dainet._printed_difference("DAINet 1111", "DAINet 0000", "ACDC") == "+0.30"
    assert dainet._printed_difference("DAINet 1111", "DAINet 0000", None) == "–"  # noqa: RUF001


@pytest.mark.ray
def test_rows_wait_for_the_teacher_and_share_its_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(dainet.PROTOCOLS["small"], max_side=32, width=1 / 32, steps=2, validations=1, folds=2, batch_size=4)
    rows = tuple(row for row in PAPERS["dainet"].rows if row.name in ("U-Net", "DAINet single", "DAINet 1111"))
    paper = replace(PAPERS["dainet"], rows=rows, protocols={"small": small})
    monkeypatch.setitem(PAPERS._entries, "dainet", paper)
    monkeypatch.setitem(dainet.PRETRAINING, "small", TINY)
    data = write_phantom(tmp_path / "ACDC-phantom", PhantomSettings(cases=10, size=32, seed=1))
    out = tmp_path / "out"
    settings = ReproductionSettings(paper="dainet", data=data, out=out, rows=("U-Net",), cache=tmp_path / "cache")
    with session(num_cpus=2):
        first = reproduce(replace(settings, budget_s=0.0), ray_map)
        assert first.made is None
        assert list(first.costs) == ["U-Net"]  # the others wait
        assert not (out / "before").exists()
        full = reproduce(replace(settings, rows=("core",)), ray_map)
        assert set(full.results) == {"U-Net", "DAINet single", "DAINet 1111"}
        assert full.made is not None
        maps = [path for case in full.prepared.cases for path in open_case(full.prepared, case).folder.glob("extra_*")]
        times = [path.stat().st_mtime_ns for path in maps]
        assert len(maps) == 10
        again = reproduce(replace(settings, rows=("core",)), ray_map)
    assert again.made == full.made
    assert [path.stat().st_mtime_ns for path in maps] == times
    outcome = PretrainOutcome.load(full.made.folder / OUTCOME)
    splits = full.prepared.splits
    assert outcome.cases == splits.fold(0).train
    assert not set(outcome.cases) & {*splits.locked, *splits.fold(0).validation}
    tables = {path.name: list(csv.reader(path.open())) for path in (out / "tables").glob("*.csv")}
    third = {row[0]: row for row in tables["02-table-3-single-and-dual-encoders-by-switches.csv"]}
    assert third["DAINet 1111"][-3:] == ["91.90", "–", "–"]  # noqa: RUF001  (print: mean; the phantom's organs are not)
    assert third["DAINet 0001"][1] == "not trained here"
    facts = dict(tables["04-pretraining-of-the-teacher.csv"])
    assert facts["maps, s per case"].endswith("(10 cases computed once, stored ever after)")
    for figure in ("attention-maps.png", "pretraining.png", "examples.png", "training-curves.png"):
        assert (out / "figures" / figure).stat().st_size > 1000


def test_a_folder_that_is_moved_keeps_its_rows(tmp_path: Path) -> None:
    from overread.reproduction.program import row_key
    from overread.testing.tiny import tiny_config

    here, there = tmp_path / "here", tmp_path / "there"
    keys = [
        row_key(tiny_config(options={"teacher": f"{place}/before/t"}), "content", out)
        for place, out in ((here, here), (there, there), (there, here))
    ]
    assert keys[0] == keys[1] != keys[2]
