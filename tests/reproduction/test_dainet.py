"""DAI-Net's experiments: the teacher comes before the rows that take its maps, and is made once."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.vit import ViTOptions
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data import nifti
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.data.store import open_case
from overread.jsonio import write_json
from overread.reproduction import PAPERS, dainet
from overread.reproduction.configs import options_at, prepare_settings
from overread.reproduction.cost import published_parameters
from overread.reproduction.measuring import TestCase
from overread.reproduction.printed import printed
from overread.reproduction.program import ReproductionSettings, choose_rows, reproduce
from overread.reproduction.results import CaseMeasures, Findings, RowResult
from overread.testing.tiny import tiny_prepared
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


def test_v_net_is_itself_and_on_slices_has_the_counts_that_are_told() -> None:
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


ORGANS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")


def test_the_printed_means_of_table_1_are_those_of_its_organs() -> None:
    table = {key: mean for key, (mean, _) in printed("dainet").items() if key[0] == "1"}
    models = {model for _, model, *_ in table}
    assert len(models) == 15
    for model in models - {"R50 AttnUNet"}:  # its aorta is a typo of the print
        mean = sum(table["1", model, "Synapse", organ] for organ in ORGANS) / 8
        assert table["1", model, "Synapse", "dice"] == pytest.approx(mean, abs=0.02)
    assert table["1", "DAINet 1111", "Synapse", "hd95"] == 13.79
    assert table["1", "U-Net", "Synapse", "dice"] == 79.52  # the paper's own
    assert dainet._printed_difference("DAINet 1111", "U-Net", "Synapse") == "+4.74"


@pytest.mark.parametrize(
    ("label", "metric"),
    [("Left Kidney", "left_kidney"), ("kidney-left", "left_kidney"), ("Pancreas", "pancreas"), ("MLV", "myo")],
)
def test_labels_are_known_by_several_names(label: str, metric: str) -> None:
    assert dainet._printed_name(label) == metric


def read(spacing: tuple[float, ...] | None) -> dict[str, float | None]:
    """Measure a line of 10 voxels where 1 is true, and three structures: both empty, found in vain, and missed."""
    truth, mask = np.zeros((2, 12, 5), np.uint8), np.zeros((2, 12, 5), np.uint8)
    truth[0, 0, 0] = 1
    mask[0, :10, 0] = 1
    mask[1, 0, 4], truth[1, 9, 4] = 3, 4
    names = ("background", "aorta", "liver", "spleen", "stomach")
    prepared = SimpleNamespace(classes=5, label_names=names, case=lambda _: SimpleNamespace(spacing=spacing))
    probabilities = np.eye(5, dtype=np.float32)[mask].transpose(3, 0, 1, 2)
    case = SimpleNamespace(probabilities=lambda: probabilities, truth=truth, prepared=prepared, case_id="c")
    return dainet.measure(cast(TestCase, case))


def test_measures_by_hand() -> None:
    found = read((5.0, 2.0, 1.0))
    assert found["dice_aorta"] == pytest.approx(2 / 11)
    # pooled distances 0 and 0, 1, ..., 9: 8.5 voxels of 2 mm
    assert [found["hd95_aorta"], found["voxels_aorta"]] == pytest.approx([17.0, 8.5])
    assert (found["hd95_liver"], found["hd95_spleen"], found["hd95_stomach"]) == (0.0, None, None)
    assert found["mean_hd95"] == pytest.approx(8.5)  # of 17 and 0
    compat = [found[f"compat_dice_{name}"] for name in ("aorta", "liver", "spleen", "stomach")]
    assert compat == [pytest.approx(2 / 11), 0.0, 1.0, 0.0]
    assert found["mean_compat_hd95"] == pytest.approx(8.5 / 4)
    assert read(None)["hd95_aorta"] == pytest.approx(8.5)


def test_synapse_has_table_1_and_distances_in_both_units(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path, cases=4, shape=(2, 8, 8), volumes=True)
    cases = tuple(replace(case, spacing=(3.0, 1.0, 1.0)) for case in prepared.cases)
    prepared = replace(prepared, dataset="Synapse", label_names=("background", "left kidney"), cases=cases)
    values: dict[str, float | None] = {
        "mean_dice": 0.5,
        "dice_left kidney": 0.5,
        "mean_hd95": 6.0,
        "hd95_left kidney": 6.0,
        "mean_voxels": 2.0,
    }
    tested = CaseMeasures(case="case0", group="case0", has_foreground=True, values=values)
    result = RowResult(row="U-Net", parameters=1, steps=1, seconds=1.0, epochs=(), cases=(tested,))
    paper = PAPERS["dainet"]
    findings = Findings(paper, "small", paper.protocols["small"], prepared, {"U-Net": result})
    tables = {table.title: table for table in dainet.exhibits(findings)}
    first = {row[0]: row for row in tables["Table 1: other models"].rows}
    assert first["U-Net"] == ("U-Net", "50.00 (n=1)", "50.00 (n=1)", "79.52", "82.79")
    assert first["TransCASCADE"][1:] == ("not trained here", "not trained here", "82.68", "87.66")
    distances = tables["HD95, both directions pooled"]
    assert distances.columns[1::2] == ("mean, mm", "mean, voxels", "mean, printed (voxels)")
    rows = {row[0]: row for row in distances.rows}
    assert rows["U-Net"][1:] == ("6.00 (n=1)", "6.00 (n=1)", "2.00 (n=1)", "–", "33.99")  # noqa: RUF001
    acdc = dainet.exhibits(replace(findings, prepared=replace(prepared, dataset="ACDC")))
    assert acdc[0].title.startswith("Table 2")


def test_the_synapse_protocol_prepares_hu_organs_and_split(tmp_path: Path) -> None:
    numbers = [*range(1, 11), *range(21, 41)]
    rng = np.random.default_rng(0)
    for number in numbers:
        voxels, label = rng.integers(-1000, 1000, (16, 16, 2)), np.zeros((16, 16, 2), np.uint8)
        label[0, :14, 0] = range(14)
        write_nifti(tmp_path / "Synapse" / "imagesTr" / f"case{number:04d}_0000.nii.gz", voxels.astype(np.int16))
        write_nifti(tmp_path / "Synapse" / "labelsTr" / f"case{number:04d}.nii.gz", label)
    organs = {f"organ {value}": value for value in range(1, 14)}
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0} | organs, "file_ending": ".nii.gz"}
    write_json(tmp_path / "Synapse" / "dataset.json", told | {"name": "Synapse", "numTraining": 30})
    settings = prepare_settings(PAPERS["dainet-synapse"].protocols["paper"], seed=0)
    prepared = prepare_dataset(tmp_path / "Synapse", settings, tmp_path / "cache")
    test = [1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38]
    assert prepared.splits.locked == tuple(f"case{number:04d}" for number in test)
    assert sorted(len(fold) for fold in prepared.splits.folds) == [2] * 6 + [3] * 2
    assert prepared.label_values == (0, 1, 2, 3, 4, 6, 7, 8, 11)
    arrays = open_case(prepared, "case0005")
    assert np.asarray(arrays.truth)[0, :14, 0].tolist() == [0, 1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8, 0, 0]
    assert (float(arrays.image.min()), float(arrays.image.max())) == (0.0, 1.0)
    assert PAPERS["dainet"].protocols["paper"].prepare == {}


def write_nifti(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, voxels, None, np.diag([1.0, 1.0, 3.0, 1.0]))


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
