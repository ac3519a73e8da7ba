"""Groups by table, pattern and name; near-duplicates by thumbnail; merging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from overread.data.groups import assign_groups, known_group, merge_groups, near_duplicates, thumbnail
from overread.errors import UserError
from overread.records import Case, Dataset


def make(root: Path, *ids: str) -> Dataset:
    return Dataset(
        name="toy",
        root=str(root),
        layout="folder",
        spatial_dims=2,
        channels=("grey",),
        label_names=("background", "foreground"),
        label_values=(0, 255),
        cases=tuple(Case(id=case, group="?", channels=(f"images/{case}.png",)) for case in ids),
    )


def grouped(dataset: Dataset) -> dict[str, str]:
    return {case.id: case.group for case in dataset.cases}


@pytest.mark.parametrize(
    ("case", "group"),
    [
        ("patient012_frame01", "patient012"),
        ("patient012", "patient012"),
        ("sub-01_ses-2_T1w", "sub-01"),
        ("LIDC-IDRI-0003_nodule1", "LIDC-IDRI-0003"),
        ("TCGA-CS-4941_19960909_1", "TCGA-CS-4941"),
        ("volume_7_slice_033", "volume_7"),
        ("hippocampus_001", "hippocampus_001"),
        ("benign_12", "benign_12"),
        ("patients_1", "patients_1"),
    ],
)
def test_known_names(case: str, group: str) -> None:
    assert known_group(case) == group


def test_pattern_gives_its_first_group_or_the_whole_match(tmp_path: Path) -> None:
    dataset = make(tmp_path, "x1-a", "x1-b", "x2-a")
    expected = {"x1-a": "x1", "x1-b": "x1", "x2-a": "x2"}
    assert grouped(assign_groups(dataset, r"x\d")) == expected
    assert grouped(assign_groups(dataset, r"^(x\d)-")) == expected


def test_pattern_that_is_wrong_or_misses_cases(tmp_path: Path) -> None:
    dataset = make(tmp_path, "x1", "y1")
    with pytest.raises(UserError, match="must be a regular expression"):
        assign_groups(dataset, "(")
    with pytest.raises(UserError, match=r"must match every case, but misses 1 \(such as 'y1'\)"):
        assign_groups(dataset, r"x\d")


def test_table_wins_over_pattern(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("\ufeffcase,group\na,one\nb,one\n", encoding="utf-8")
    assert grouped(assign_groups(make(tmp_path, "a", "b"), ".")) == {"a": "one", "b": "one"}


def test_all_problems_of_the_table_are_reported(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("case,group\na,one\na,two\nb,\nz,one\n")
    with pytest.raises(UserError) as caught:
        assign_groups(make(tmp_path, "a", "b", "c"), None)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("'a' must have one group", "'b' must have a group", "'z' must be in the data set", "lacks 'c'"):
        assert part in text


@pytest.mark.parametrize("content", ["", "name,patient\na,b\n"])
def test_table_without_its_columns(tmp_path: Path, content: str) -> None:
    (tmp_path / "groups.csv").write_text(content)
    with pytest.raises(UserError, match="must have the columns case,group"):
        assign_groups(make(tmp_path, "a"), None)


def speckle(seed: int, shape: tuple[int, ...] = (96, 128)) -> np.ndarray:
    """Images that share their coarse brightness and differ in detail."""
    detail = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    ramp = np.linspace(0, 50, shape[-1])
    return (ramp + 10 * detail / detail.std()).astype(np.float32)[None]


def test_near_duplicates_survive_calipers_gain_and_a_little_noise_and_resizing() -> None:
    first = speckle(0)
    marked = first.copy()
    marked[0, 40:44, 20:80] = marked.max()
    noisy = 0.5 * first + 100 + np.random.default_rng(9).normal(0, 1, first.shape)
    smaller = np.stack([ndimage.zoom(first[0], 0.7, order=1)])
    pictures = {"a": first, "b": marked, "c": noisy, "d": smaller, "e": speckle(1), "f": speckle(2)}
    pairs = near_duplicates({name: thumbnail(picture) for name, picture in pictures.items()})
    assert pairs == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]


def test_flat_images_are_not_duplicates() -> None:
    flat = {"a": thumbnail(np.full((1, 8, 8), 3.7)), "b": thumbnail(np.full((3, 50, 9), 1e6))}
    assert near_duplicates(flat) == []


def test_thumbnails_of_volumes_and_of_tiny_images() -> None:
    volume = np.stack([speckle(i)[0] for i in range(10)])[None]
    assert thumbnail(volume).shape == (4, 32, 32)
    assert thumbnail(volume[:, :1]).shape == thumbnail(volume[:, 0]).shape == (1, 32, 32)
    assert thumbnail(speckle(0, (5, 7))).shape == (1, 32, 32)
    assert np.linalg.norm(thumbnail(volume)) == pytest.approx(1.0, abs=1e-5)


def test_volumes_are_compared_with_volumes_only() -> None:
    volume = np.stack([speckle(i)[0] for i in range(8)])[None]
    pictures = {"v1": volume, "v2": volume + 3, "p": volume[:, 0]}
    assert near_duplicates({name: thumbnail(picture) for name, picture in pictures.items()}) == [("v1", "v2")]


def test_merging_joins_whole_groups_through_chains(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("case,group\na,p\nb,p\nc,q\nd,r\ne,s\n")
    dataset = assign_groups(make(tmp_path, "a", "b", "c", "d", "e"), None)
    expected = {"a": "p", "b": "p", "c": "p", "d": "p", "e": "s"}
    assert grouped(merge_groups(dataset, [("d", "c"), ("c", "b")])) == expected
    assert grouped(merge_groups(dataset, [("b", "c"), ("c", "d")])) == expected
    assert merge_groups(dataset, []) == dataset
