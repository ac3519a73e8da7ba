"""NIfTI headers against the bytes that are there, and spacing that is known or not."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from overread.data import nifti
from overread.errors import UserError


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, unit: str | None = "mm") -> Path:
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    if unit is not None:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def lie_about_shape(path: Path, target: Path, shape: tuple[int, int, int]) -> Path:
    content = bytearray(path.read_bytes())
    content[40:56] = np.array([3, *shape, 1, 1, 1, 1], dtype="<i2").tobytes()  # `dim` of NIfTI-1
    target.write_bytes(gzip.compress(bytes(content)) if target.name.endswith(".gz") else bytes(content))
    return target


def test_header_counts_the_bytes_that_are_promised(tmp_path: Path) -> None:
    header = nifti.inspect(save(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.int16)))
    assert (header.shape, header.channels, header.dtype) == ((3, 4, 5), 1, "int16")
    assert header.promised_bytes == header.available_bytes == 352 + 3 * 4 * 5 * 2


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_header_that_promises_more_than_the_file_holds_is_refused_before_allocating(
    tmp_path: Path, ending: str
) -> None:
    honest = save(tmp_path / "honest.nii", np.zeros((4, 4, 4), np.uint8))
    liar = lie_about_shape(honest, tmp_path / f"liar{ending}", (30000, 30000, 30000))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"must hold the 27000000000352 bytes .* but holds 416"):
        nifti.read_voxels(liar)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_surplus_bytes_are_not_read(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8)).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(plain + bytes(64 * 2**20)))
    tracemalloc.start()
    voxels, _ = nifti.read_voxels(tmp_path / "bomb.nii.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert voxels.sum() == 8
    assert peak < 8 * 2**20


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_truncated_gzip_is_refused(tmp_path: Path, keep: float) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (8, 8, 8), dtype=np.uint8)
    path = save(tmp_path / "a.nii.gz", voxels)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="gzip stream must be whole"):
        nifti.inspect(path)


def test_flipped_bit_in_gzip_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 255, (8, 8, 8), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # inside the checksum
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="gzip stream must be whole"):
        nifti.inspect(path)


def test_plain_file_named_gz_is_refused(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(UserError, match="must be gzip-compressed, but it is not"):
        nifti.inspect(plain.rename(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("content", [b"", b"no NIfTI at all", bytes(1000)])
def test_foreign_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UserError, match="must be NIfTI"):
        nifti.inspect(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_voxels_that_are_no_real_numbers_are_refused(tmp_path: Path, dtype: np.dtype) -> None:
    save(tmp_path / "a.nii", np.zeros((2, 2, 2), dtype))
    with pytest.raises(UserError, match="must be real numbers"):
        nifti.inspect(tmp_path / "a.nii")


def test_spacing_is_in_mm(tmp_path: Path) -> None:
    voxels = np.zeros((2, 2, 2), np.uint8)
    assert nifti.inspect(save(tmp_path / "a.nii", voxels, np.diag([1, 2, 3, 1.0]))).spacing == (1, 2, 3)
    assert nifti.inspect(save(tmp_path / "b.nii", voxels, np.diag([500, 500, 2000, 1.0]), "micron")).spacing == (
        0.5,
        0.5,
        2,
    )
    assert nifti.inspect(save(tmp_path / "c.nii", voxels, np.diag([2, 2, 2, 1.0]), "unknown")).spacing == (2, 2, 2)


def test_spacing_is_known_at_one_mm_and_unknown_where_nobody_recorded_it(tmp_path: Path) -> None:
    voxels = np.zeros((2, 2, 2), np.uint8)
    assert nifti.inspect(save(tmp_path / "a.nii", voxels, unit="mm")).spacing == (1, 1, 1)
    assert nifti.inspect(save(tmp_path / "b.nii", voxels, unit="unknown")).spacing is None
    assert nifti.inspect(save(tmp_path / "c.nii", voxels, np.diag([1, 1, 1.5, 1]), "unknown")).spacing == (1, 1, 1.5)


def test_scaled_integers_become_real_and_plain_ones_stay(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.array([[[2]]], np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 1.0)
    nibabel.save(image, tmp_path / "a.nii")
    assert nifti.read_voxels(tmp_path / "a.nii")[0].item() == pytest.approx(2.0, abs=0.3)
    assert nifti.read_voxels(save(tmp_path / "b.nii", np.array([[[7]]], np.int16)))[0].dtype == np.int16


def test_nifti_2_and_big_endian_are_read(tmp_path: Path) -> None:
    voxels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    nibabel.save(nibabel.Nifti2Image(voxels, np.eye(4)), tmp_path / "two.nii.gz")
    swapped = nibabel.Nifti1Image(voxels.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    swapped.set_data_dtype(np.int16)
    nibabel.save(swapped, tmp_path / "big.nii")
    for name in ("two.nii.gz", "big.nii"):
        read, header = nifti.read_voxels(tmp_path / name)
        np.testing.assert_array_equal(read, voxels)
        assert header.dtype == "int16"
