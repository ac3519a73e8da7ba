"""Masks and probabilities as nnU-Net, MONAI, TotalSegmentator and people leave them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from overread.data.readings import find_readings, read_reading, reading_name
from overread.data.resample import Grid
from overread.errors import UserError

NAMES, VALUES = ("background", "Liver", "left kidney"), (0, 1, 2)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
IDS = np.array([[[0, 1], [1, 2], [0, 0]], [[0, 1], [0, 2], [2, 0]]], np.uint8)
"""(2, 3, 2)."""
GRID = Grid((2, 3, 2), AFFINE)


def nifti(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def picture(path: Path, values: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


def maps(ids: np.ndarray) -> np.ndarray:
    """Probabilities (K, *S) of 0.8 for the class and 0.1 for each other."""
    return np.stack([np.where(ids == k, 0.8, 0.1) for k in range(3)]).astype(np.float32)


def read(path: Path, grid: Grid = GRID) -> np.ndarray:
    return read_reading(path, grid, NAMES, VALUES)


def test_a_mask_is_certain(tmp_path: Path) -> None:
    found = read(nifti(tmp_path / "a.nii.gz", IDS))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(0), IDS)
    assert set(np.unique(found)) == {0.0, 1.0}


def test_a_mask_in_another_orientation_and_spacing_is_the_same(tmp_path: Path) -> None:
    # each voxel eight times, the first axis reversed
    fine = np.kron(IDS, np.ones((2, 2, 2), np.uint8))[::-1]
    affine = np.array([[-0.5, 0, 0, 1.25], [0, 0.5, 0, -0.25], [0, 0, 1.0, -0.5], [0, 0, 0, 1]])
    np.testing.assert_array_equal(read(nifti(tmp_path / "a.nii.gz", fine, affine)).argmax(0), IDS)


def test_probabilities_of_nnunet_are_turned_and_take_the_geometry_of_the_mask(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", probabilities=maps(IDS).transpose(0, 3, 2, 1).astype(np.float16))
    assert find_readings(tmp_path, ["a"], NAMES) == {"a": tmp_path / "a.npz"}
    np.testing.assert_allclose(read(tmp_path / "a.npz"), maps(IDS), atol=1e-3)
    # the mask beside it lies one slice lower: so do the probabilities, and what it does not cover is background
    lower = AFFINE.copy()
    lower[2, 3] = -2.0
    nifti(tmp_path / "a.nii.gz", IDS, lower)
    found = read(tmp_path / "a.npz")
    np.testing.assert_allclose(found[..., 0], maps(IDS)[..., 1], atol=1e-3)
    assert found[0, ..., 1].tolist() == np.ones((2, 3)).tolist()
    nifti(tmp_path / "a.nii.gz", IDS[::-1].copy(), lower)
    with pytest.raises(UserError, match="must agree with the mask beside it"):
        read(tmp_path / "a.npz")


def test_pictures_of_nnunet_have_one_slice(tmp_path: Path) -> None:
    ids = IDS[..., 1]
    np.savez_compressed(tmp_path / "a.npz", probabilities=maps(ids)[:, None])
    picture(tmp_path / "a.png", ids.tolist())
    np.testing.assert_allclose(read(tmp_path / "a.npz", Grid((2, 3), None)), maps(ids), atol=1e-3)


def test_channels_of_a_nifti_are_probabilities(tmp_path: Path) -> None:
    found = read(nifti(tmp_path / "a.nii.gz", np.moveaxis(maps(IDS), 0, -1)))
    np.testing.assert_allclose(found, maps(IDS), atol=1e-6)


def test_a_single_map_is_the_probability_of_the_one_foreground_class(tmp_path: Path) -> None:
    inside = np.where(IDS == 1, 0.75, 0.25).astype(np.float32)
    path = nifti(tmp_path / "a.nii.gz", inside)
    found = read_reading(path, GRID, ("background", "lesion"), (0, 1))
    np.testing.assert_allclose(found, np.stack([1 - inside, inside]), atol=1e-6)
    # one slice lower: what the map does not cover is background
    lower = AFFINE.copy()
    lower[2, 3] = -2.0
    found = read_reading(nifti(tmp_path / "b.nii.gz", inside[..., None], lower), GRID, ("background", "lesion"), (0, 1))
    np.testing.assert_allclose(found[1, ..., 0], inside[..., 1], atol=1e-6)
    assert found[0, ..., 1].tolist() == np.ones((2, 3)).tolist()
    sure = nifti(tmp_path / "c.nii.gz", (IDS == 1).astype(np.float32))  # 0 and 1 alone are a mask
    assert set(np.unique(read_reading(sure, GRID, ("background", "lesion"), (0, 1)))) == {0.0, 1.0}


def test_a_single_map_of_several_classes_or_beyond_1_is_refused(tmp_path: Path) -> None:
    inside = np.where(IDS == 1, 0.75, 0.25).astype(np.float32)
    with pytest.raises(UserError, match=r"a\.nii\.gz: a single map .* but there are 2: write the probabilities of all"):
        read(nifti(tmp_path / "a.nii.gz", inside))
    with pytest.raises(UserError, match="label values must be whole numbers"):
        read_reading(nifti(tmp_path / "b.nii.gz", 4 * inside + 0.5), GRID, ("background", "lesion"), (0, 1))


def test_one_mask_per_class_as_totalsegmentator_writes(tmp_path: Path) -> None:
    nifti(tmp_path / "a" / "liver.nii.gz", (IDS == 1).astype(np.uint8))
    nifti(tmp_path / "a" / "spleen.nii.gz", np.ones_like(IDS))
    found = find_readings(tmp_path, ["a", "b"], NAMES)
    assert found == {"a": tmp_path / "a"}
    with pytest.raises(UserError, match="a mask of every label must be there, but left kidney is not"):
        read(found["a"])
    nifti(tmp_path / "a" / "left_kidney.nii.gz", (IDS == 2).astype(np.uint8))
    np.testing.assert_array_equal(read(found["a"]).argmax(0), IDS)


def test_names_as_tools_write_them(tmp_path: Path) -> None:
    nifti(tmp_path / "a" / "a_trans.nii.gz", IDS)
    nifti(tmp_path / "b_seg.nii.gz", IDS)
    picture(tmp_path / "ca.png", [[0]])
    found = find_readings(tmp_path, ["a", "b", "c"], NAMES)
    assert {case: path.name for case, path in found.items()} == {"a": "a_trans.nii.gz", "b": "b_seg.nii.gz"}
    picture(tmp_path / "masks" / "c.png", [[0]])  # a prediction folder of overread
    assert list(find_readings(tmp_path, ["a", "b", "c"], NAMES)) == ["c"]


@pytest.mark.parametrize("high", [1, 2, 255])
def test_one_class_may_be_written_as_1_or_255(tmp_path: Path, high: int) -> None:
    path = picture(tmp_path / "a.png", [[0, high]])
    found = read_reading(path, Grid((1, 2), None), ("background", "lesion"), (0, 2))
    assert found.argmax(0).tolist() == [[0, 1]]


def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.nii.gz: label values must be among \[0, 1, 2\], but found \[7\]"):
        read(nifti(tmp_path / "a.nii.gz", np.where(IDS == 2, 7, IDS).astype(np.uint8)))
    far = AFFINE.copy()
    far[0, 3] = 1000.0
    with pytest.raises(UserError, match="shares no voxel"):
        read(nifti(tmp_path / "b.nii.gz", IDS, far))
    with pytest.raises(UserError, match="but has 2 channels"):
        read(nifti(tmp_path / "c.nii.gz", np.zeros((2, 3, 2, 2), np.uint8)))
    with pytest.raises(UserError, match=r"must have the image's shape \(2, 3\), but has \(3, 2\)"):
        read(picture(tmp_path / "d.png", [[0, 1], [0, 1], [0, 1]]), Grid((2, 3), None))
    np.savez_compressed(tmp_path / "e.npz", probabilities=np.ones((3, 2, 3, 2)))
    np.savez_compressed(tmp_path / "h.npz", probabilities=np.stack([maps(IDS[..., 0])] * 2, axis=1))
    with pytest.raises(UserError, match=r"must have the shape \(2, 3\) of its mask or image, .* has \(2, 2, 3\)"):
        read(tmp_path / "h.npz", Grid((2, 3), None))
    with pytest.raises(UserError, match="sum to 1 over the classes, but 12 voxels do not"):
        read(tmp_path / "e.npz")
    np.savez_compressed(tmp_path / "f.npz", probabilities=np.ones((2, 2, 3, 2)))
    with pytest.raises(UserError, match="`probabilities` of 3 classes"):
        read(tmp_path / "f.npz")
    (tmp_path / "g.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"g\.npz: the npz must be readable"):
        read(tmp_path / "g.npz")
    with pytest.raises(UserError, match="letters, digits"):
        reading_name("nn,unet")
    for name in ("..", ".hidden", "-x"):  # names become folders
        with pytest.raises(UserError, match="must be letters, digits"):
            reading_name(name)
