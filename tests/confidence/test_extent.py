import numpy as np
import pytest

from overread.confidence.extent import mask_extent


def test_a_volume_by_hand() -> None:
    # Class 1: a bar of three voxels and one that touches it by an edge alone; class 3: two voxels; class 2: none.
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[0, 0:3, 0] = 1
    mask[1, 3, 0] = 1
    mask[3, 3, 1:3] = 3
    found = mask_extent(mask, 4, (2.0, 5.0, 10.0))  # 100 mm3 a voxel: 0.1 ml
    assert found.unit == "ml"
    assert found.volumes == pytest.approx((0, 0.4, 0, 0.2))
    assert found.components == (0, 2, 0, 1)
    assert mask_extent(mask, 4, None).unit == "voxels"
    assert mask_extent(mask, 4, None).volumes == (0, 4, 0, 2)


def test_an_image_by_hand() -> None:
    mask = np.array([[1, 1, 0, 1], [2, 0, 1, 1]])
    assert mask_extent(mask, 3, (0.5, 2.0)).unit == "mm2"
    assert mask_extent(mask, 3, (0.5, 4.0)).volumes == (0, 10, 2)
    assert mask_extent(mask, 3, None).components == (0, 2, 1)


def test_parts_of_other_classes_do_not_join() -> None:
    # the box of class 1 has class 2 in its middle
    assert mask_extent(np.array([[1, 2, 1]]), 3, None).components == (0, 2, 1)


def test_an_empty_mask_has_no_extent() -> None:
    found = mask_extent(np.zeros((3, 3), np.uint8), 2, None)
    assert (found.volumes, found.components) == ((0, 0), (0, 0))
