"""The phantom's files are read back, in every layout, by the readers of real data."""

from pathlib import Path

import numpy as np
import pytest

from overread.data.images import read_image, read_label
from overread.data.layouts import read_dataset
from overread.data.phantom import PhantomSettings, grades, make_case, write_phantom


@pytest.mark.parametrize(
    ("settings", "layout", "annotators", "labels"),
    [
        (PhantomSettings(cases=3, size=32), "folder", 1, ("background", "class_1", "class_2")),
        (PhantomSettings(cases=3, size=32, classes=2, annotators=2), "folder", 2, ("background", "foreground")),
        (PhantomSettings(cases=3, size=32, channels=2), "nnunet", 1, ("background", "organ1", "organ2")),
        (PhantomSettings(cases=3, size=32, depth=8, kind="3d"), "msd", 1, ("background", "organ1", "organ2")),
        (
            PhantomSettings(cases=3, size=32, depth=8, kind="3d", channels=2),
            "msd",
            1,
            ("background", "organ1", "organ2"),
        ),
        (
            PhantomSettings(cases=3, size=32, depth=8, kind="3d", annotators=2, classes=2),
            "nnunet",
            2,
            ("background", "organ1"),
        ),
    ],
)
def test_written_files_are_recognised(
    tmp_path: Path, settings: PhantomSettings, layout: str, annotators: int, labels: tuple[str, ...]
) -> None:
    dataset = read_dataset(write_phantom(tmp_path / "phantom", settings))
    assert dataset.layout == settings.layout == layout
    assert [case.id for case in dataset.cases] == ["phantom_000", "phantom_001", "phantom_002"]
    assert {len(case.labels) for case in dataset.cases} == {annotators}
    assert dataset.label_names == labels
    assert len(dataset.channels) == settings.channels
    assert dataset.spatial_dims == (2 if settings.kind == "2d" else 3)


@pytest.mark.parametrize("channels", [1, 2])
def test_voxels_and_geometry_of_a_volume_survive(tmp_path: Path, channels: int) -> None:
    settings = PhantomSettings(cases=1, size=32, depth=8, kind="3d", channels=channels)
    root = write_phantom(tmp_path / "phantom", settings)
    case = make_case(settings, 0, grades(settings)[0])
    native = read_image([root / "imagesTr" / "phantom_000.nii.gz"])
    assert native.spacing == (1.0, 1.0, 4.0)
    np.testing.assert_array_equal(native.array, np.round(1000 + 200 * case.image))
    np.testing.assert_array_equal(read_label(root / "labelsTr" / "phantom_000.nii.gz"), case.labels[0])
