"""Every kind of bad file is one line that names the case, what is wrong and what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from overread.data.checks import annotator_problems, apart_from_others, check_case
from overread.records import Case, Dataset

SHAPE = (3, 4, 5)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One sound case with two channels."""
    label = np.zeros(SHAPE, np.uint8)
    label[1] = 1
    save(tmp_path / "t1.nii.gz", np.ones(SHAPE, np.float32))
    save(tmp_path / "t2.nii.gz", np.ones(SHAPE, np.float32))
    save(tmp_path / "label.nii.gz", label)
    case = Case(id="a", group="a", channels=("t1.nii.gz", "t2.nii.gz"), labels={"reference": "label.nii.gz"})
    return Dataset(
        name="toy",
        root=str(tmp_path),
        layout="nnunet",
        spatial_dims=3,
        channels=("T1", "T2"),
        label_names=("background", "core"),
        label_values=(0, 1),
        cases=(case,),
    )


def test_sound_case_has_no_problem(dataset: Dataset) -> None:
    assert check_case(dataset, dataset.cases[0]) == ()


def with_nan(root: Path) -> None:
    voxels = np.ones(SHAPE, np.float32)
    voxels[0, 0, :2] = np.nan, np.inf
    save(root / "t2.nii.gz", voxels)


def with_unknown_labels(root: Path) -> None:
    save(root / "label.nii.gz", np.arange(60, dtype=np.uint8).reshape(SHAPE) // 20 * 3)


def without_gzip(root: Path) -> None:
    path = root / "t1.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))


def truncated(root: Path) -> None:
    path = root / "label.nii.gz"
    path.write_bytes(path.read_bytes()[:60])


def with_lying_header(root: Path) -> None:
    content = bytearray(gzip.decompress((root / "t1.nii.gz").read_bytes()))
    content[40:56] = np.array([3, 20000, 20000, 20000, 1, 1, 1, 1], "<i2").tobytes()
    (root / "t1.nii.gz").write_bytes(gzip.compress(bytes(content)))


BAD: list[tuple[Callable[[Path], object], str]] = [
    (with_nan, "case a: t2.nii.gz must hold finite values, but 2 voxels are NaN or infinite"),
    (
        with_unknown_labels,
        "case a: label.nii.gz must hold only the label values [0, 1] in dataset.json, but holds 3, 6",
    ),
    (without_gzip, "case a: t1.nii.gz: a .nii.gz must be gzip-compressed, but it is not"),
    (truncated, "case a: label.nii.gz: the gzip stream must be whole, but it is broken"),
    (with_lying_header, "case a: t1.nii.gz: the file must hold the 32000000000352 bytes its header promises"),
    (lambda root: (root / "t2.nii.gz").unlink(), "case a: t2.nii.gz: the file must exist, but it does not"),
    (lambda root: (root / "label.nii.gz").unlink(), "case a: label.nii.gz: the file must exist, but it does not"),
    (
        lambda root: save(root / "label.nii.gz", np.zeros((3, 4, 6), np.uint8)),
        "case a: label.nii.gz must have the image's shape (3, 4, 5), but has (3, 4, 6)",
    ),
    (
        lambda root: save(root / "t2.nii.gz", np.zeros((4, 3, 5), np.uint8)),
        "case a: t2.nii.gz must have the image's shape (3, 4, 5), but has (4, 3, 5)",
    ),
    (
        lambda root: save(root / "label.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([-1.0, 1, 1, 1])),
        "case a: label.nii.gz must have the image's affine, but its corners lie up to 4 world units away",
    ),
    (
        lambda root: save(root / "label.nii.gz", np.full(SHAPE, 0.5, np.float32)),
        "case a: label.nii.gz: label values must be whole numbers, but 60 are not (such as 0.5)",
    ),
    (
        lambda root: save(root / "t1.nii.gz", np.ones((*SHAPE, 2), np.float32)),
        "case a: image must have 2 channels ['T1', 'T2'], but has 3",
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD, ids=[line.split(": ", 1)[1][:60] for _, line in BAD])
def test_bad_file_is_one_clear_line(dataset: Dataset, spoil: Callable[[Path], object], expected: str) -> None:
    spoil(Path(dataset.root))
    problems = check_case(dataset, dataset.cases[0])
    assert len(problems) == 1
    assert problems[0].startswith(expected)
    assert "\n" not in problems[0]


def test_all_problems_of_a_case_come_together(dataset: Dataset) -> None:
    with_nan(Path(dataset.root))
    with_unknown_labels(Path(dataset.root))
    assert len(check_case(dataset, dataset.cases[0])) == 2


def test_affine_rounding_is_no_problem(dataset: Dataset) -> None:
    save(Path(dataset.root) / "label.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4) + 1e-4)
    assert check_case(dataset, dataset.cases[0]) == ()


def test_label_of_another_annotator_and_instances_are_checked(dataset: Dataset) -> None:
    root = Path(dataset.root)
    save(root / "wrong.nii.gz", np.zeros((1, 1, 1), np.uint8))
    labels = {"ann": "label.nii.gz", "bob": "wrong.nii.gz"}
    case = replace(dataset.cases[0], labels=labels, instances="wrong.nii.gz")
    problems = check_case(dataset, case)
    assert len(problems) == 2
    assert all("wrong.nii.gz must have the image's shape" in problem for problem in problems)


def test_every_annotator_of_another_size_is_named(dataset: Dataset) -> None:
    root = Path(dataset.root)
    for name, shape in (("ann", SHAPE), ("bob", (4, 3, 5)), ("cleo", (3, 4, 6))):
        save(root / f"{name}.nii.gz", np.zeros(shape, np.uint8))
    case = replace(dataset.cases[0], labels={name: f"{name}.nii.gz" for name in ("ann", "bob", "cleo")})
    assert check_case(dataset, case) == (
        "case a: bob.nii.gz must have the image's shape (3, 4, 5), but has (4, 3, 5): resample it to the image",
        "case a: cleo.nii.gz must have the image's shape (3, 4, 5), but has (3, 4, 6): resample it to the image",
    )


def test_annotators_who_mark_nothing_that_others_do(dataset: Dataset) -> None:
    masks = {"ann": [0, 1], "bob": [1, 2], "cleo": [7], "dora": []}
    for name, voxels in masks.items():
        label = np.zeros(SHAPE, np.uint8)
        label.flat[voxels] = 1
        save(Path(dataset.root) / f"{name}.nii.gz", label)

    def of(*names: str) -> dict[str, bool]:
        labels = {name: f"{name}.nii.gz" for name in names}
        return apart_from_others(dataset, replace(dataset.cases[0], labels=labels))

    assert of("ann", "bob", "cleo", "dora") == {"ann": False, "bob": False, "cleo": True}
    assert of("ann", "cleo") == {"ann": True, "cleo": True}
    assert of("ann", "dora") == of("ann") == {}


def test_only_an_annotator_who_is_mostly_apart_saw_other_images() -> None:
    together, apart = {"ann": False, "bob": False, "cleo": False}, {"ann": False, "bob": False, "cleo": True}
    assert annotator_problems([together, together, apart, apart]) == []
    assert annotator_problems([apart, apart]) == []  # two cases say nothing
    assert annotator_problems([together, apart, apart, {"ann": False, "bob": False}]) == [
        "annotator cleo: masks must be of the images that the others saw, but in 2 of 3 cases they share no voxel with "
        "any other's: check the file names, or leave the annotator out"
    ]


def test_picture_among_volumes(dataset: Dataset, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "a.png")
    case = Case(id="p", group="p", channels=("a.png",))
    problems = check_case(replace(dataset, channels=("red", "green", "blue")), case)
    assert len(problems) == 1
    assert problems[0].startswith("case p: image must have 3 axes like the other images, but has shape (3, 4)")


def pictures(root: Path, instances: np.ndarray, label: np.ndarray) -> Dataset:
    """Return one 2-D case with instance ids."""
    for name, array in (("image", label * 0 + 7), ("label", label), ("ids", instances)):
        Image.fromarray(array).save(root / f"{name}.png")
    case = Case(id="a", group="a", channels=("image.png",), labels={"reference": "label.png"}, instances="ids.png")
    return Dataset(
        name="toy",
        root=str(root),
        layout="folder",
        spatial_dims=2,
        channels=("grey",),
        label_names=("background", "nucleus"),
        label_values=(0, 255),
        cases=(case,),
    )


def test_instances_must_mark_the_foreground_of_the_mask(tmp_path: Path) -> None:
    label = np.zeros((20, 30), np.uint8)
    label[2:12, 3:23] = 255  # 200 pixels
    ids = (label > 0).astype(np.uint16) * 4
    ids[7:12, 3:23] = 9
    ids[2, 3:5] = 0  # 2 of 200 pixels: a drawn border
    sound = pictures(tmp_path, ids, label)
    assert check_case(sound, sound.cases[0]) == ()
    ids[2, 3:13] = 0
    wrong = pictures(tmp_path, ids, label)
    (problem,) = check_case(wrong, wrong.cases[0])
    assert problem == (
        "case a: the ids of ids.png must mark the foreground of the mask, but 10 of 200 pixels are in one of the two "
        "only: correct the mask or the ids"
    )
