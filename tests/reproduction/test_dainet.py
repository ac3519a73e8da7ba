"""DAI-Net's experiments: the teacher comes before the rows that take its maps, and is made once."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.vit import ViTOptions
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.data import nifti
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.data.store import open_case
from overread.jsonio import read_json, write_json
from overread.reproduction import PAPERS, dainet, dainet_teacher
from overread.reproduction.configs import loss_terms, options_at, prepare_settings
from overread.reproduction.cost import published_parameters
from overread.reproduction.measuring import TestCase, measure_mask
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
    assert paper.published_classes == 9
    assert published_parameters(paper.row("U-Net"), 9) == 31_042_889  # as the sheet counts them
    assert published_parameters(paper.row("MT-UNet"), 9) - published_parameters(paper.row("MT-UNet"), 4) == 5 * 65


def test_the_teacher_of_the_paper() -> None:
    found = dainet_teacher.PRETRAINING["paper"]
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
    unknown = read(None)
    assert (unknown["hd95_aorta"], unknown["mean_hd95"]) == (None, None)  # not in mm
    assert unknown["voxels_aorta"] == pytest.approx(8.5)


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
    assert not any("pretraining" in title.lower() for title in tables)  # there is no teacher
    mixed = (replace(cases[0], spacing=None), *cases[1:])
    acdc = dainet.exhibits(replace(findings, prepared=replace(prepared, dataset="ACDC", cases=mixed)))
    assert acdc[0].title.startswith("Table 2")
    by_title = {table.title: {row[0]: row for row in table.rows} for table in acdc}
    compat = by_title["By the rule of TransUNet's program for empty masks"]
    assert [compat[name][2] for name in ("DAINet 1111", "DAINet 0001", "DAINet single", "V-Net")] == [
        "91.90", "91.71", "90.38", "–",  # noqa: RUF001
    ]  # fmt: skip
    assert "mean, mm" in next(table for table in acdc if table.title.startswith("HD95")).columns
    assert {case.spacing for case in replace(prepared, cases=mixed).cases} == {None, (3.0, 1.0, 1.0)}


def test_imported_masks_are_measured_as_ours_are(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path, cases=4, shape=(1, 8, 8))
    truth = np.asarray(open_case(prepared, "case1").truth)
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(truth).save(folder / "case1.png")
    measured = measure_mask(folder, prepared, "case1", paper=PAPERS["dainet"])
    assert (measured.values["mean_dice"], measured.values["dice_square"], measured.values["dice"]) == (1.0, 1.0, 1.0)
    assert measured.values["mean_voxels"] == 0.0
    bare = measure_mask(folder, prepared, "case1")
    assert set(bare.values) < set(measured.values)
    result = RowResult(row="DAINet 1111", parameters=0, steps=0, seconds=0.0, epochs=(), cases=(bare,))
    paper = PAPERS["dainet"]
    findings = Findings(paper, "small", paper.protocols["small"], prepared, {"DAINet 1111": result})
    assert dainet._chosen(findings, "DAINet 1111", 3) == ["case1"]


def test_every_row_has_the_loss_and_the_augmentation_of_the_paper() -> None:
    for size in ("small", "paper"):
        protocol = PAPERS["dainet"].protocols[size]
        found = protocol.augment
        assert (found.turn_and_flip, found.rotate_degrees, found.probability) == (True, 20.0, 0.5)
        assert (found.flip, found.scale, found.intensity) == (False, 0.0, 0.0)
        for row in PAPERS["dainet"].rows:
            weights = ARCHITECTURES[str(row.architecture)].segmenter.default_losses | protocol.losses
            assert set(protocol.losses) <= loss_terms(row)
            weights.pop("jigsaw", None)  # of DARR's own
            assert {name: weight for name, weight in weights.items() if weight} == {"ce": 0.5, "dice_all": 0.5}


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


def phantom_with_unlabelled(root: Path) -> Path:
    """Write a phantom with an unlabelled image of every patient in `imagesTs`, and one of another."""
    data = write_phantom(root / "data", PhantomSettings(cases=10, size=32, channels=2, seed=1))
    others = write_phantom(root / "others", PhantomSettings(cases=11, size=32, channels=2, seed=2))
    write_json(data / "dataset.json", read_json(data / "dataset.json") | {"name": "ACDC phantom"})
    names = [path.name.removesuffix("_0000.png") for path in sorted((data / "imagesTr").glob("*_0000.png"))]
    given = [path.name.removesuffix("_0000.png") for path in sorted((others / "imagesTr").glob("*_0000.png"))]
    (data / "imagesTs").mkdir()
    groups = {name: name for name in names}
    for source, name in zip(given, [*names, "new"], strict=True):
        groups[f"ts-{name}"] = name
        for channel in ("0000", "0001"):
            target = data / "imagesTs" / f"ts-{name}_{channel}.png"
            (others / "imagesTr" / f"{source}_{channel}.png").rename(target)
    rows = [f"{case},{group}" for case, group in groups.items()]
    (data / "groups.csv").write_text("\n".join(["case,group", *rows]) + "\n")
    return data


@pytest.mark.ray
def test_rows_wait_for_the_teacher_and_share_its_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "overread")
    small = replace(dainet.PROTOCOLS["small"], max_side=32, width=1 / 32, steps=2, validations=1, folds=2, batch_size=4)
    rows = tuple(row for row in PAPERS["dainet"].rows if row.name in ("U-Net", "DAINet single", "DAINet 1111"))
    paper = replace(PAPERS["dainet"], rows=rows, protocols={"small": small})
    monkeypatch.setitem(PAPERS._entries, "dainet", paper)
    monkeypatch.setitem(dainet_teacher.PRETRAINING, "small", TINY)
    data = phantom_with_unlabelled(tmp_path)
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
        folders = [open_case(full.prepared, case).folder for case in full.prepared.cases]
        maps = [path for folder in folders for path in folder.glob("extra_*.npy")]
        times = [path.stat().st_mtime_ns for path in maps]
        assert len(maps) == 10
        again = reproduce(replace(settings, rows=("core",)), ray_map)
    assert again.made == full.made
    looks = [(call.found, call.computed) for call in dainet_teacher._map_calls(full.made.folder)]
    assert looks == [(0, 10), (10, 0), (10, 0)]  # computed; looked again at once; the second call
    assert [record.message for record in caplog.records if "attention of" in record.message] == [
        "computing attention of 10 cases of 'ACDC phantom': none are stored yet"
    ]
    assert [path.stat().st_mtime_ns for path in maps] == times
    outcome = PretrainOutcome.load(full.made.folder / OUTCOME)
    splits = full.prepared.splits
    train = splits.fold(0).train
    # of the unlabelled images those of training patients and of nobody's, none of a locked or validation patient
    assert outcome.cases[: len(train)] == train
    assert sorted(outcome.cases[len(train) :]) == sorted(["ts-new", *(f"ts-{case}" for case in train)])
    assert not set(outcome.groups) & {*splits.locked, *splits.fold(0).validation}
    tables = {path.name: list(csv.reader(path.open())) for path in (out / "tables").glob("*.csv")}
    third = {row[0]: row for row in tables["02-table-3-single-and-dual-encoders-by-switches.csv"]}
    assert third["DAINet 1111"][-3:] == ["91.90", "–", "–"]  # noqa: RUF001  (print: mean; the phantom's organs are not)
    assert third["DAINet 0001"][1] == "not trained here"
    facts = dict(tables["04-pretraining-of-the-teacher.csv"])
    assert facts["maps, s per case"].endswith("at most (10 cases, each computed once and stored)")
    assert facts["maps, look 1"].startswith("0 found, 10 computed, ")
    assert facts["maps, look 3"].startswith("10 found, 0 computed, ")
    assert facts["ViT"] == "192 channels, 1 blocks, 3 heads: 3 map channels (paper: 6)"
    report = (out / "report.md").read_text()
    assert "Tested: 2 cases of 2 groups (patients)." in report
    assert "No early stopping" in report
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
