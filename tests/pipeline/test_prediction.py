"""Finding new images, and measuring masks that anyone made."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from overread.cli._tables import evaluation_grids
from overread.confidence.judgement import fit_judgement
from overread.data.prepare import serial_map
from overread.ensemble.package import CONFIDENCE
from overread.errors import UserError
from overread.jsonio import write_json
from overread.pipeline import prediction
from overread.pipeline.prediction import _check_free, evaluate_masks, find_images, predict_folder, rewrite_report
from overread.pipeline.reading import CaseResult
from overread.records import CaseConfidence, Manifest, PrepareSettings, Preprocessing
from overread.review.page_data import PictureLimits
from overread.review.views import case_view


def test_images_are_grouped_by_case_and_channel(tmp_path: Path) -> None:
    for name in ("a_0001.png", "a_0000.png", "b_0000.png", "b_0001.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path, 2)
    assert {case: [Path(f).name for f in files] for case, files in found.items()} == {
        "a": ["a_0000.png", "a_0001.png"],
        "b": ["b_0000.png", "b_0001.png"],
    }


@pytest.mark.parametrize(
    ("channels", "names", "cases"),
    [
        (1, ["scan_0001.png", "scan_0002.png"], ["scan_0001", "scan_0002"]),
        (1, ["scan_0000.png", "scan_0001.png"], ["scan_0000", "scan_0001"]),
        (1, ["a_0000.png", "b_0000.png"], ["a", "b"]),
        (2, ["a_0000.png", "a_0002.png"], ["a_0000", "a_0002"]),
        (3, ["a_0000.png", "a_0001.png"], ["a_0000", "a_0001"]),
        (2, ["a.tif", "b_0000.png", "b_0001.png"], ["a", "b"]),
    ],
)
def test_numbers_are_channels_only_where_a_case_has_all(
    tmp_path: Path, channels: int, names: list[str], cases: list[str]
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert list(find_images(tmp_path, channels)) == cases


def test_two_files_of_one_case_are_a_mistake(tmp_path: Path) -> None:
    for name in ("a.png", "a_0000.png", "b.png", "b.tif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        find_images(tmp_path, 1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["case a", "case b"]


@pytest.mark.parametrize("make", [False, True])
def test_no_images_is_a_mistake(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "images"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match="must hold images" if make else "must be a folder"):
        find_images(folder, 1)


def write(path: Path, pixels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


def test_masks_are_measured_against_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Truth: 2 pixels; prediction: 1 of them and no other. Dice = 2 * 1 / (1 + 2).
    for case in ("x", "y"):
        write(tmp_path / "data/images" / f"{case}.png", [[1, 2], [3, 4]])
        write(tmp_path / "data/masks" / f"{case}.png", [[255, 255], [0, 0]])
    write(tmp_path / "out/masks/x.png", [[255, 0], [0, 0]])
    with pytest.raises(UserError, match=r"1 of 2 have none \(y\): add them, or give --allow-missing"):
        evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",))
    table = evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",), allow_missing=True)
    assert "1 of 2 labelled cases have no mask" in caplog.text
    assert table.overall["dice"].all.n == 1
    assert table.overall["dice"].all.mean == pytest.approx(2 / 3)


def test_ids_of_objects_are_measured_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for case in ("x", "y"):
        write(tmp_path / "data/images" / f"{case}.png", [[1, 2, 3], [4, 5, 6]])
        write(tmp_path / "data/masks" / f"{case}.png", [[255, 255, 0], [0, 255, 255]])
        write(tmp_path / "data/instances" / f"{case}.png", [[1, 1, 0], [0, 2, 2]])
        write(tmp_path / "out/masks" / f"{case}.png", [[255, 255, 0], [0, 255, 255]])
    evaluate = partial(evaluate_masks, tmp_path / "out", tmp_path / "data", ("dice",))
    assert evaluate().instances == {}
    write(tmp_path / "out/instances/x.png", [[9, 9, 0], [0, 3, 0]])  # one object, and a half of the other
    with pytest.raises(UserError, match=r"mask of ids of every labelled case, but 1 of 2 have none \(y\)"):
        evaluate()
    found = evaluate(allow_missing=True).instances
    assert (found["aji"].mean, found["precision_50"].mean, found["aji"].n) == (3 / 4, 1, 1)
    write(tmp_path / "out/instances/y.png", [[1, 1], [1, 1]])
    with pytest.raises(UserError, match=r"case y: mask of ids must have the shape \(2, 3\) of the true ids"):
        evaluate()
    write(tmp_path / "out/instances/y.png", [[1, 1, 1], [1, 1, 1]])  # a third of it is either object
    table = evaluate()
    # both objects take the same prediction, 2 of 6 each
    assert table.instances["aji"].mean == pytest.approx((3 / 4 + 4 / 12) / 2)
    assert table.instances["precision_50"].mean == pytest.approx(1 / 2)
    grid = evaluation_grids(table)[1]
    assert grid.rows == (("aggregated Jaccard index", "0.542", "2"), ("precision at IoU 0.5", "0.500", "2"))
    shutil.rmtree(tmp_path / "data/instances")
    assert evaluate().instances == {}
    assert "they are not measured" in caplog.text


def test_masks_of_other_cases_are_a_mistake(tmp_path: Path) -> None:
    write(tmp_path / "data/images/x.png", [[1, 2], [3, 4]])
    write(tmp_path / "data/masks/x.png", [[255, 255], [0, 0]])
    write(tmp_path / "out/other.png", [[255, 0], [0, 0]])
    with pytest.raises(UserError, match="must hold masks named as cases"):
        evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",))


def test_the_truth_of_several_annotators_is_their_majority_or_a_reference(tmp_path: Path) -> None:
    # Pixels drawn by anna 1+2, ben 1, carl 1+2 (majority 1+2); the mask has 1 only: Dice 2/3, and 1 against ben.
    write(tmp_path / "data/images/x.png", [[1, 2], [3, 4]])
    for name, row in (("anna", [255, 255]), ("ben", [255, 0]), ("carl", [255, 255])):
        write(tmp_path / f"data/masks/{name}/x.png", [row, [0, 0]])
    write(tmp_path / "out/x.png", [[255, 0], [0, 0]])

    def dice(settings: PrepareSettings) -> float | None:
        return evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",), truth=settings).overall["dice"].all.mean

    assert dice(PrepareSettings()) == pytest.approx(2 / 3)
    (table,) = evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",)).annotators
    figures = {name: found.mean for name, found in table.figures.items()}
    assert figures["annotator:anna"] == figures["majority"] == pytest.approx(2 / 3)
    assert (figures["annotator:ben"], figures["annotators"]) == (1, pytest.approx((2 / 3 + 1 + 2 / 3) / 3))
    assert table.calibration == {}
    assert dice(PrepareSettings(reference="ben")) == pytest.approx(1.0)
    with pytest.raises(UserError, match="case x: the reference annotator must be one of anna, ben, carl"):
        dice(PrepareSettings(reference="dora"))


def test_wrong_values_and_shapes_of_masks_come_together_by_case(tmp_path: Path) -> None:
    for case in ("x", "y", "z"):
        write(tmp_path / "data/images" / f"{case}.png", [[1, 2], [3, 4]])
        write(tmp_path / "data/masks" / f"{case}.png", [[255, 255], [0, 0]])
        write(tmp_path / "out" / f"{case}.png", [[255, 255], [0, 0]])
    write(tmp_path / "out/x.png", [[7, 255], [0, 0]])
    write(tmp_path / "out/z.png", [[255, 255, 0], [0, 0, 0]])
    with pytest.raises(UserError) as caught:
        evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",))
    first, second = caught.value.problems
    assert first.startswith("case x: ") and "found [7]" in first
    assert second.startswith("case z: mask must have the shape of its labels, but has (2, 3)")


def test_a_mask_of_another_geometry_is_a_mistake(tmp_path: Path) -> None:
    volume = np.zeros((4, 4, 4), np.uint8)
    volume[1] = 1
    for place in ("imagesTr/x_0000", "labelsTr/x"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "data" / f"{place}.nii.gz")
    (tmp_path / "data/dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1, '
        '"file_ending": ".nii.gz"}'
    )
    (tmp_path / "out").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 1, 1, 1])), tmp_path / "out/x.nii.gz")
    with pytest.raises(UserError, match=r"case x: x\.nii\.gz must have the label's affine"):
        evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",))
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "out/x.nii.gz")
    assert evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice",)).overall["dice"].all.mean == 1.0


def test_distances_are_in_mm_only_where_all_spacings_are_known(tmp_path: Path) -> None:
    # One voxel each, two voxels of 2 mm apart.
    for place, at in (("imagesTr/x_0000", 1), ("labelsTr/x", 1), ("out", 3)):
        volume = np.zeros((4, 4, 4), np.uint8)
        volume[at, 1, 1] = 1
        path = tmp_path / ("out/x.nii.gz" if place == "out" else f"data/{place}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 1, 1, 1])), path)
    (tmp_path / "data/dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 1, '
        '"file_ending": ".nii.gz"}'
    )
    table = evaluate_masks(tmp_path / "out", tmp_path / "data", ("dice", "nsd", "hd95"), tolerance=3.5)
    assert (table.unit, table.overall["hd95"].all.mean, table.overall["nsd"].all.mean) == ("mm", 4.0, 0.0)
    (grid,) = evaluation_grids(table)
    assert grid.columns == ("class", "dice", "nsd at 3.5 mm", "hd95 (mm)", "n")
    assert grid.rows[0] == ("organ", "0.000", "0.000", "4.000", "1")
    write(tmp_path / "flat/images/y.png", [[1, 2, 3, 4]])
    write(tmp_path / "flat/masks/y.png", [[255, 0, 0, 0]])
    write(tmp_path / "flat/images/z.png", [[1, 2, 3, 5]])
    write(tmp_path / "flat/masks/z.png", [[255, 0, 0, 0]])
    write(tmp_path / "read/y.png", [[0, 0, 255, 0]])
    write(tmp_path / "read/z.png", [[0, 0, 0, 0]])
    table = evaluate_masks(tmp_path / "read", tmp_path / "flat", ("dice", "nsd", "hd95"))
    assert (table.unit, table.tolerance, table.overall["hd95"].all.mean) == ("pixels", 1.0, 2.0)
    (grid,) = evaluation_grids(table)
    assert grid.columns == ("class", "dice", "nsd at 1 pixels", "n", "hd95 (pixels)", "n")
    assert grid.rows[0] == ("foreground", "0.000 ± 0.000", "0.000 ± 0.000", "2", "2.000", "1")
    with pytest.raises(UserError, match="unknown metric 'hd': choose one of accuracy, dice, hd95"):
        evaluate_masks(tmp_path / "read", tmp_path / "flat", ("hd",))


def test_all_bad_images_are_told_before_the_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(
        name="set",
        members=(),
        label_names=("background", "organ"),
        label_values=(0, 1),
        preprocessing=Preprocessing(channels=("grey",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
        winners="w",
        prepared="p",
        locked_cases=0,
    )
    monkeypatch.setattr(prediction, "load_package", lambda folder: SimpleNamespace(manifest=manifest))
    images = tmp_path / "images"
    write(images / "good.png", [[1, 2], [3, 4]])
    (images / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(images / "colour.png")
    Image.fromarray(np.array([[np.nan, 1.0]], np.float32)).save(images / "nan.tif")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), images / "volume.nii.gz")
    with pytest.raises(UserError) as caught:
        predict_folder(tmp_path / "package", images, tmp_path / "out", serial_map)
    lines = {line.split(":")[0]: line for line in caught.value.problems}
    assert list(lines) == ["case broken", "case colour", "case nan", "case volume"]
    assert "must have 1 channels ['grey'], but has 3" in lines["case colour"]
    assert "1 voxels are NaN" in lines["case nan"]
    assert "must have 2 axes" in lines["case volume"]
    assert not (tmp_path / "out").exists()


def test_overwrite_never_takes_a_package_for_a_prediction(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "member.safetensors").write_text("weights")
    with pytest.raises(UserError, match="deletes only prediction folders"):
        _check_free(tmp_path, overwrite=True)
    (tmp_path / "package.json").write_text("{}")
    _check_free(tmp_path, overwrite=True)


def test_a_report_is_written_again_without_the_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a run or prediction folder with results"):
        rewrite_report(tmp_path)
    manifest = Manifest(
        name="set",
        members=(),
        label_names=("background", "organ"),
        label_values=(0, 1),
        preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
        winners="w",
        prepared="p",
        locked_cases=0,
    )
    manifest.save(tmp_path / prediction.PACKAGE_COPY)
    row = CaseConfidence(
        case="scan",
        n_readings=2,
        foreground=1.0,
        relation_confidence=0.5,
        pairwise_dice=0.5,
        relation_confidence_per_class={"organ": 0.5},
        pairwise_dice_per_class={"organ": 0.5},
    )
    write_json(tmp_path / "results.json", [CaseResult(confidence=row, view="views/scan.json").to_json()])
    mask = np.ones((8, 8), np.uint8)
    case_view(mask * 1.0, [("prediction", mask)], foreground=mask, slice_axis=None).save(tmp_path / "views/scan.json")
    fit_judgement([], [], manifest.label_names, winners="w").save(tmp_path / CONFIDENCE)
    text = rewrite_report(tmp_path).read_text()
    assert "1 with the whole case" in text
    assert "There is no lower bound of the Dice: 0 calibration groups" in text
    assert "1 with its key slice" in rewrite_report(tmp_path, PictureLimits(volumes=0)).read_text()
