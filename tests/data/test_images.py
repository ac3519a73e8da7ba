"""Pictures and volumes: what is read is what was stored; what is written has the input's geometry and format."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from overread.data import images
from overread.errors import UserError

GREY = np.array([[0, 10, 20], [30, 40, 255]], np.uint8)
AFFINE = np.array([[-0.8, 0.1, 0, 5], [0, 0.9, 0, -7], [0, 0, 2.5, 11], [0, 0, 0, 1]])


def picture(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    (Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)).save(path)
    return path


def volume(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def test_suffix_and_stem() -> None:
    assert (images.suffix("a/b.v1.NII.GZ"), images.stem("a/b.v1.NII.GZ")) == (".nii.gz", "b.v1")
    assert (images.suffix("b.JPEG"), images.suffix("b.txt"), images.stem("b.txt")) == (".jpeg", "", "b.txt")
    assert images.suffix(".png") == ""


@pytest.mark.parametrize(
    ("ending", "dtype"),
    [(".png", np.uint8), (".bmp", np.uint8), (".tif", np.uint8), (".png", np.uint16), (".tif", np.uint16)],
)
def test_grey_pictures_keep_their_values(tmp_path: Path, ending: str, dtype: type) -> None:
    values = GREY.astype(dtype) * (257 if dtype is np.uint16 else 1)
    native = images.read_image([picture(tmp_path / f"a{ending}", values)])
    np.testing.assert_array_equal(native.array, values[None].astype(np.float32))
    assert native.array.dtype == np.float32
    assert (native.spacing, native.affine, native.dtype, native.file_format) == (
        None,
        None,
        np.dtype(dtype).name,
        ending,
    )


def test_float_tif_keeps_its_values(tmp_path: Path) -> None:
    values = np.array([[0.25, -3.5]], np.float32)
    native = images.read_image([picture(tmp_path / "a.tif", values)])
    np.testing.assert_array_equal(native.array, values[None])
    assert native.dtype == "float32"


def test_colour_gives_three_channels_and_alpha_is_dropped(tmp_path: Path) -> None:
    colour = np.dstack([GREY, GREY // 2, 255 - GREY])
    transparent = np.dstack([colour, np.zeros_like(GREY)])  # fully transparent: blending would change the values
    for name, values in (("rgb", colour), ("rgba", transparent)):
        native = images.read_image([picture(tmp_path / f"{name}.png", values)])
        np.testing.assert_array_equal(native.array, np.moveaxis(colour, -1, 0).astype(np.float32))
    grey = images.read_image([picture(tmp_path / "la.png", np.dstack([GREY, np.zeros_like(GREY)]))])
    np.testing.assert_array_equal(grey.array, GREY[None].astype(np.float32))


def test_one_file_per_channel_equals_one_file_with_all(tmp_path: Path) -> None:
    voxels = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    both = images.read_image([volume(tmp_path / "all.nii.gz", voxels)])
    parts = [volume(tmp_path / f"{i}.nii.gz", voxels[..., i]) for i in range(2)]
    separate = images.read_image(parts)
    assert both.native_shape == (2, 3, 4)
    np.testing.assert_array_equal(both.array, np.moveaxis(voxels, -1, 0))
    np.testing.assert_array_equal(both.array, separate.array)
    assert both.spacing == pytest.approx((0.8, np.hypot(0.1, 0.9), 2.5))
    np.testing.assert_allclose(both.affine, AFFINE, atol=1e-6)


def test_channels_of_different_shape_are_refused(tmp_path: Path) -> None:
    files = [picture(tmp_path / "a.png", GREY), picture(tmp_path / "b.png", GREY.T.copy())]
    with pytest.raises(UserError, match=r"one shape, but got a.png \(2, 3\), b.png \(3, 2\)"):
        images.read_image(files)


def test_missing_foreign_and_truncated_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must exist"):
        images.read_image([tmp_path / "none.png"])
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="format must be one of"):
        images.read_image([tmp_path / "a.txt"])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for ending in (".png", ".tif", ".bmp", ".jpg"):
        path = picture(tmp_path / f"cut{ending}", noise)
        path.write_bytes(path.read_bytes()[:-600])
        with pytest.raises(UserError, match=f"cut{ending}: the picture must be readable"):
            images.read_image([path])


def test_tif_with_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match="must have one page, but has 2"):
        images.inspect_header(tmp_path / "a.tif")


def test_picture_that_promises_absurd_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(picture(tmp_path / "a.bmp", GREY).read_bytes())
    content[18:26] = np.array([100_000, 100_000], "<i4").tobytes()  # width and height of the BMP header
    (tmp_path / "a.bmp").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"a\.bmp: the picture must be readable"):
        images.read_image([tmp_path / "a.bmp"])


def test_labels_from_grey_palette_bits_and_equal_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 1]], np.uint8)
    indexed = Image.frombytes("P", (2, 2), ids.tobytes())
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.save(tmp_path / "palette.png")
    picture(tmp_path / "grey.png", ids)
    picture(tmp_path / "equal.png", np.dstack([ids] * 3))
    for name in ("palette", "grey", "equal"):
        label = images.read_label(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(label, ids)
        assert label.dtype == np.int32
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(images.read_label(tmp_path / "bits.png"), [[0, 1], [1, 1]])


def test_coloured_mask_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.dstack([GREY, GREY, 255 - GREY]))
    with pytest.raises(UserError, match="must be grey or palette"):
        images.read_label(path)


def test_jpg_mask_is_cut_and_class_ids_in_jpg_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    np.testing.assert_array_equal(images.read_label(picture(tmp_path / "a.jpg", mask)), mask)
    with pytest.raises(UserError, match="JPG blurs class ids"):
        images.read_label(picture(tmp_path / "b.jpg", mask // 100))


def test_float_labels_must_be_whole(tmp_path: Path) -> None:
    whole = np.array([[[0.0, 1.0, 2.0]]], np.float32)
    np.testing.assert_array_equal(images.read_label(volume(tmp_path / "a.nii.gz", whole)), whole)
    with pytest.raises(UserError, match=r"must be whole numbers, but 1 are not \(such as 1.5\)"):
        images.read_label(volume(tmp_path / "b.nii.gz", whole * np.float32([1, 1.5, 1])))
    with pytest.raises(UserError, match="but 1 are NaN or infinite"):
        images.read_label(volume(tmp_path / "c.nii.gz", np.float32([[[0, 1, np.nan]]])))


def test_label_with_a_trailing_axis_of_one_is_squeezed(tmp_path: Path) -> None:
    assert images.read_label(volume(tmp_path / "a.nii", np.zeros((2, 3, 4, 1), np.uint8))).shape == (2, 3, 4)


@pytest.mark.parametrize(("stored", "expected"), [(np.int16, "int16"), (np.uint8, "uint8"), (np.float32, "uint8")])
def test_written_nifti_mask_has_the_inputs_geometry_and_type(tmp_path: Path, stored: type, expected: str) -> None:
    source = volume(tmp_path / "image.nii.gz", np.ones((3, 4, 5), stored))
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3] = 2
    written = images.write_mask(tmp_path / "out" / "image.nii", mask, images.read_image([source]))
    assert written == tmp_path / "out" / "image.nii.gz"
    assert [entry.name for entry in written.parent.iterdir()] == ["image.nii.gz"]
    before, after = nibabel.load(source), nibabel.load(written)
    np.testing.assert_array_equal(np.asarray(after.dataobj), mask)
    np.testing.assert_array_equal(before.affine, after.affine)
    for key in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(before.header[key], after.header[key])
    assert after.get_data_dtype() == expected


def test_written_mask_of_a_4d_input_is_3d(tmp_path: Path) -> None:
    native = images.read_image([volume(tmp_path / "a.nii.gz", np.ones((2, 3, 4, 2), np.float32))])
    written = nibabel.load(images.write_mask(tmp_path / "m.nii.gz", np.ones((2, 3, 4), np.uint8), native))
    assert written.shape == (2, 3, 4)
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)


def test_unknown_unit_stays_unknown(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    native = images.read_image([tmp_path / "a.nii.gz"])
    assert native.spacing is None
    images.write_mask(tmp_path / "m.nii.gz", np.ones((2, 2, 2), np.uint8), native)
    assert images.inspect_header(tmp_path / "m.nii.gz").spacing is None


@pytest.mark.parametrize(
    ("ending", "dtype", "written"),
    [(".png", np.uint8, ".png"), (".png", np.uint16, ".png"), (".tif", np.uint16, ".tif"), (".jpg", np.uint8, ".png")],
)
def test_written_picture_mask_keeps_values_and_format_but_never_jpg(
    tmp_path: Path, ending: str, dtype: type, written: str
) -> None:
    native = images.read_image([picture(tmp_path / f"a{ending}", GREY.astype(dtype))])
    mask = np.array([[0, 255, 0], [1, 0, 2]], np.uint8)
    path = images.write_mask(tmp_path / f"m{ending}", mask, native)
    assert path.name == f"m{written}"
    stored = np.asarray(Image.open(path))
    np.testing.assert_array_equal(stored, mask)
    assert stored.dtype == dtype


def test_values_too_large_for_the_inputs_type_widen_it(tmp_path: Path) -> None:
    native = images.read_image([picture(tmp_path / "a.png", GREY)])
    mask = np.full((2, 3), 1000, np.int32)
    np.testing.assert_array_equal(images.read_label(images.write_mask(tmp_path / "m.png", mask, native)), mask)


def test_mask_of_another_shape_is_a_programming_error(tmp_path: Path) -> None:
    native = images.read_image([picture(tmp_path / "a.png", GREY)])
    with pytest.raises(ValueError, match=r"\(2, 3\), but got \(3, 2\)"):
        images.write_mask(tmp_path / "m.png", GREY.T, native)


def test_float_maps_round_trip(tmp_path: Path) -> None:
    flat = images.read_image([picture(tmp_path / "a.png", GREY)])
    maps = np.stack([GREY, 255 - GREY]).astype(np.float32) / 255
    path = images.write_float_map(tmp_path / "p.png", maps, flat)
    with Image.open(path) as pages:
        for index in range(2):
            pages.seek(index)
            np.testing.assert_array_equal(np.asarray(pages), maps[index])
    solid = images.read_image([volume(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.int16))])
    maps = np.random.default_rng(0).random((2, 2, 3, 4), dtype=np.float32)
    path = images.write_float_map(tmp_path / "p.nii.gz", maps, solid)
    np.testing.assert_array_equal(images.read_image([path]).array, maps)
    assert nibabel.load(path).get_data_dtype() == np.float32
    np.testing.assert_allclose(nibabel.load(path).affine, AFFINE, atol=1e-6)
