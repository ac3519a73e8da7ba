"""The four layouts are recognised, and every structural problem is reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from overread.data.layouts import read_dataset, scan_dataset
from overread.errors import UserError
from overread.records import SINGLE_ANNOTATOR, Dataset

DECATHLON: dict[str, Any] = {"name": "Toy", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}
NNUNET: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "core": 2, "edge": 1},
    "file_ending": ".nii.gz",
}


def volume(path: Path, shape: tuple[int, ...] = (2, 3, 4)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), path)
    return path.name


def picture(path: Path, *values: int, colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.array([[0, *values]], np.uint8)
    Image.fromarray(np.dstack([grey] * 3) if colour else grey).save(path)


def decathlon(root: Path, cases: tuple[str, ...] = ("b", "a"), **changes: Any) -> Path:
    for case in cases:
        volume(root / "imagesTr" / f"{case}.nii.gz")
        volume(root / "labelsTr" / f"{case}.nii.gz")
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases]
    (root / "dataset.json").write_text(json.dumps({**DECATHLON, "training": training, **changes}))
    return root


def nnunet(root: Path, **changes: Any) -> Path:
    for case in ("p1", "p2"):
        for channel in range(2):
            volume(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        volume(root / "labelsTr" / f"{case}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({**NNUNET, **changes}))
    return root


def folder(root: Path) -> Path:
    for case in ("n1", "n2"):
        picture(root / "images" / f"{case}.png", 7)
        picture(root / "masks" / f"{case}.png", 255)
    return root


def problems(root: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    return caught.value.problems


# ---------------------------------------------------------------- recognised


def test_decathlon(tmp_path: Path) -> None:
    volume(tmp_path / "imagesTs" / "t.nii.gz")
    dataset = read_dataset(decathlon(tmp_path, test=["./imagesTs/t.nii.gz"]))
    assert (dataset.layout, dataset.name, dataset.spatial_dims) == ("msd", "Toy", 3)
    assert (dataset.channels, dataset.label_names, dataset.label_values) == (("CT",), ("background", "liver"), (0, 1))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].labels == {SINGLE_ANNOTATOR: "labelsTr/a.nii.gz"}
    assert [(case.id, case.labels) for case in dataset.unlabelled] == [("t", {})]
    assert Dataset.from_json(dataset.to_json()) == dataset


def test_decathlon_test_list_without_its_folder_is_passed_over(tmp_path: Path) -> None:
    assert read_dataset(decathlon(tmp_path, test=["./imagesTs/t.nii.gz"])).unlabelled == ()


def test_nnunet_with_two_channels_and_label_order_by_value(tmp_path: Path) -> None:
    volume(tmp_path / "imagesTs" / "q_0000.nii.gz")
    volume(tmp_path / "imagesTs" / "q_0001.nii.gz")
    dataset = read_dataset(nnunet(tmp_path))
    assert (dataset.layout, dataset.channels, dataset.spatial_dims) == ("nnunet", ("T1", "T2"), 3)
    assert (dataset.label_names, dataset.label_values) == (("background", "edge", "core"), (0, 1, 2))
    assert dataset.cases[0].channels == ("imagesTr/p1_0000.nii.gz", "imagesTr/p1_0001.nii.gz")
    assert [case.id for case in dataset.unlabelled] == ["q"]


def test_nnunet_colour_picture_holds_all_channels(tmp_path: Path) -> None:
    picture(tmp_path / "imagesTr" / "a_0000.png", 3, colour=True)
    picture(tmp_path / "labelsTr" / "a.png", 1)
    channels = {"0": "R", "1": "G", "2": "B"}
    manifest = {"channel_names": channels, "labels": {"background": 0, "x": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    dataset = read_dataset(tmp_path)
    assert (dataset.spatial_dims, dataset.cases[0].channels) == (2, ("imagesTr/a_0000.png",))


def test_nnunet_with_annotators(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    for path in (root / "labelsTr").iterdir():
        path.unlink()
    volume(root / "labelsTr" / "ann" / "p1.nii.gz")
    volume(root / "labelsTr" / "bob" / "p1.nii.gz")
    volume(root / "labelsTr" / "bob" / "p2.nii.gz")
    assert [set(case.labels) for case in read_dataset(root).cases] == [{"ann", "bob"}, {"bob"}]


def test_folder_with_one_foreground_value_and_instances(tmp_path: Path) -> None:
    picture(tmp_path / "instances" / "n1.png", 1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".DS_Store").write_text("hidden")
    dataset = read_dataset(folder(tmp_path))
    assert (dataset.layout, dataset.name, dataset.channels) == ("folder", tmp_path.name, ("grey",))
    assert (dataset.label_names, dataset.label_values) == (("background", "foreground"), (0, 255))
    assert [case.instances for case in dataset.cases] == ["instances/n1.png", None]


def test_folder_with_class_ids_in_other_formats(tmp_path: Path) -> None:
    for case, value in (("a", 2), ("b", 5)):
        picture(tmp_path / "images" / f"{case}.jpg", 9, 9, colour=True)
        picture(tmp_path / "masks" / f"{case}.bmp", value)
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("red", "green", "blue")
    assert (dataset.label_names, dataset.label_values) == (("background", "class_2", "class_5"), (0, 2, 5))


def test_folder_with_annotators_where_one_did_not_annotate(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 1)
    picture(tmp_path / "images" / "b.png", 1)
    picture(tmp_path / "masks" / "r1" / "a.png", 1)
    picture(tmp_path / "masks" / "r2" / "a.png", 0)
    picture(tmp_path / "masks" / "r2" / "b.png", 1)
    labels = [case.labels for case in read_dataset(tmp_path).cases]
    assert labels == [{"r1": "masks/r1/a.png", "r2": "masks/r2/a.png"}, {"r2": "masks/r2/b.png"}]


def test_a_case_that_no_annotator_has_is_a_problem(tmp_path: Path) -> None:
    for case in ("a", "b"):
        picture(tmp_path / "images" / f"{case}.png", 1)
    for annotator in ("r1", "r2"):
        picture(tmp_path / "masks" / annotator / "a.png", 1)
    assert problems(tmp_path) == (
        "case b: must have a label by at least one annotator in masks/, but none has it: add a label, empty if there "
        "is nothing to mark, or remove the image",
    )


def test_groups_come_from_known_names_and_from_the_table(tmp_path: Path) -> None:
    root = decathlon(tmp_path, cases=("patient001_frame01", "patient001_frame12", "other"))
    assert [case.group for case in read_dataset(root).cases] == ["other", "patient001", "patient001"]
    (root / "groups.csv").write_text("case,group\nother,x\npatient001_frame01,x\npatient001_frame12,y\n")
    assert [case.group for case in read_dataset(root).cases] == ["x", "x", "y"]


# ---------------------------------------------------------------- bad input


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "must be a folder" in problems(tmp_path / "none")[0]
    assert "the folder is empty" in problems(tmp_path)[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    lines = problems(tmp_path)
    assert any("images must hold files, but is empty" in line for line in lines)
    assert any("masks must hold files, but is empty" in line for line in lines)


def test_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_text("x")
    assert "Decathlon" in problems(tmp_path)[0]
    (tmp_path / "dataset.json").write_text("{}")
    assert "must describe a known layout" in problems(tmp_path)[0]
    (tmp_path / "dataset.json").write_text("{")
    assert "must hold JSON" in problems(tmp_path)[0]


def test_missing_label_and_image_are_reported_together(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "masks" / "n1.png").unlink()
    (root / "images" / "n2.png").unlink()
    picture(root / "images" / "n3.png", 1)
    picture(root / "masks" / "n3.png", 1)
    assert problems(root) == (
        "case n1: label must exist in masks/, but is missing: add it",
        "case n2: image must exist in images/, but is missing: add it",
    )


def test_missing_files_of_a_decathlon_set(tmp_path: Path) -> None:
    root = decathlon(tmp_path)
    (root / "imagesTr" / "a.nii.gz").unlink()
    (root / "labelsTr" / "b.nii.gz").unlink()
    lines = problems(root)
    assert len(lines) == 2
    assert "case b: label labelsTr/b.nii.gz must exist" in lines[0]
    assert "case a: image imagesTr/a.nii.gz must exist" in lines[1]


def test_missing_channel_and_wrong_name_in_nnunet(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "imagesTr" / "p2_0001.nii.gz").unlink()
    volume(root / "imagesTr" / "stray.nii.gz")
    lines = problems(root)
    assert len(lines) == 2
    assert "imagesTr/stray.nii.gz must be named CASE_0000.nii.gz" in lines[0]
    assert "case p2: image channels 0..1 must exist in imagesTr, but found [0]" in lines[1]


@pytest.mark.parametrize(
    "path", ["../secret.nii.gz", "/etc/passwd", "imagesTr/../../x.nii.gz", "C:/x.nii", "..\\x.nii"]
)
def test_files_outside_the_folder_are_refused(tmp_path: Path, path: str) -> None:
    root = decathlon(tmp_path / "set")
    volume(tmp_path / "secret.nii.gz")
    volume(tmp_path / "x.nii.gz")
    manifest = json.loads((root / "dataset.json").read_text())
    manifest["training"].append({"image": path, "label": "labelsTr/a.nii.gz"})
    (root / "dataset.json").write_text(json.dumps(manifest))
    lines = problems(root)
    assert len(lines) == 1
    assert "must name files inside" in lines[0]
    assert path in lines[0]


def test_duplicate_case_names(tmp_path: Path) -> None:
    root = folder(tmp_path / "pictures")
    picture(root / "images" / "n1.bmp", 4)
    assert problems(root) == (
        "case n1: names must be unique, but images/n1.bmp and images/n1.png share it: rename one",
    )
    root = decathlon(tmp_path / "volumes", cases=("a", "a"))
    assert problems(root) == ("case a: names must be unique, but 2 cases have this one: rename them",)


def test_labels_of_dataset_json_must_be_plain_classes(tmp_path: Path) -> None:
    for labels in (None, {}, {"background": 0}, {"a": 1, "b": 2}, {"background": 0, "whole": [1, 2]}):
        assert "label" in problems(nnunet(tmp_path, labels=labels))[0]
    assert "no 'ignore'" in problems(nnunet(tmp_path, labels={"background": 0, "x": 1, "ignore": 2}))[0]


def test_channels_and_file_ending_of_dataset_json(tmp_path: Path) -> None:
    assert "must name channels 0, 1" in problems(nnunet(tmp_path, channel_names={"1": "T1"}))[0]
    assert "file_ending must be one of" in problems(nnunet(tmp_path, file_ending=".mha"))[0]


def test_masks_without_foreground_or_with_grey_levels(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 1)
    picture(tmp_path / "masks" / "a.png", 0)
    assert "all are empty" in problems(tmp_path)[0]
    picture(tmp_path / "masks" / "a.png", *range(1, 200))
    assert "200 values" in problems(tmp_path)[0]


def test_label_files_and_annotator_folders_must_not_be_mixed(tmp_path: Path) -> None:
    root = folder(tmp_path)
    picture(root / "masks" / "r1" / "n1.png", 1)
    assert any("but holds both" in line for line in problems(root))


def test_scan_returns_the_sound_cases_with_the_problems(tmp_path: Path) -> None:
    root = folder(tmp_path)
    picture(root / "images" / "n3.png", 1)
    dataset, lines = scan_dataset(root)
    assert dataset is not None
    assert [case.id for case in dataset.cases] == ["n1", "n2"]
    assert len(lines) == 1
