"""Surfaces of drawn masks, with distances worked by hand."""

import numpy as np
import pytest

from overread.errors import UserError
from overread.metrics.surface import (
    SURFACE_METRICS,
    batch_surface_dice_of_ugs_net,
    case_distances,
    common_unit,
    dice_of_transunet,
    hausdorff_95,
    surface,
    surface_dice,
    surface_distances,
    unit_of,
)


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


SQUARE = drawn("......", ".####.", ".####.", ".####.", ".####.", "......")
NONE = np.zeros((6, 6), bool)


def dot(row: int, column: int, shape: tuple[int, int] = (6, 6)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row, column] = True
    return mask


def test_surface_is_what_has_a_face_neighbour_outside_of_mask_or_image():
    expected = drawn("......", ".####.", ".#..#.", ".#..#.", ".####.", "......")
    assert np.array_equal(surface(SQUARE), expected)
    at_the_border = drawn("###", "###", "###")
    assert np.array_equal(surface(at_the_border), drawn("###", "#.#", "###"))
    cube = np.zeros((5, 5, 5), bool)
    cube[1:4, 1:4, 1:4] = True
    assert surface(cube).sum() == 26 and not surface(cube)[2, 2, 2]


def test_distances_are_in_the_unit_of_the_spacing():
    # two pixels, 3 rows and 4 columns apart
    first, second = dot(0, 0), dot(3, 4)
    assert surface_distances(first, second).first.tolist() == [5.0]
    assert hausdorff_95(first, second) == 5.0
    assert hausdorff_95(first, second, (4.0, 1.0)) == pytest.approx((12**2 + 4**2) ** 0.5)
    assert surface_dice(first, second, 5.0) == 1.0
    assert surface_dice(first, second, 4.9) == 0.0
    assert surface_dice(first, second, 2.6, (0.5, 0.5)) == 1.0  # 2.5 mm
    volume, moved = np.zeros((2, 4, 6, 6), bool)
    volume[1, 2, 2] = moved[3, 2, 2] = True
    assert hausdorff_95(volume, moved, (3.0, 1.0, 1.0)) == 6.0
    assert [unit_of(None, 2), unit_of(None, 3), unit_of((1.0, 1.0), 2)] == ["pixels", "voxels", "mm"]


def test_surface_dice_by_hand():
    # A line of four pixels against its first three and one pixel far off: 3 and 3 agree, 1 and 1 do not.
    line, other = drawn("####......"), drawn("###......#")
    assert surface_dice(line, other, 0) == pytest.approx(6 / 8)
    assert surface_dice(line, other, 1) == pytest.approx(7 / 8)  # the fourth is 1 from the third
    assert surface_dice(line, other, 6) == 1.0  # the far one is 6 from the fourth
    assert surface_dice(other, line, 1) == surface_dice(line, other, 1)


def test_a_shifted_square_by_hand():
    # Shifted by one column, all 12 surface pixels of each have one of the other within 1 pixel; 8 of 12 coincide:
    # rows 1 and 4 share columns 2-4 (6 pixels); columns 2 and 4 of the inner rows are surface of one square only.
    moved = np.roll(SQUARE, 1, 1)
    assert surface_dice(SQUARE, moved, 0) == pytest.approx(6 * 2 / 24)
    assert surface_dice(SQUARE, moved, 1) == 1.0
    assert hausdorff_95(SQUARE, moved) == 1.0


def test_hd95_is_the_larger_directed_percentile():
    # 20 of the first on the second, one 10 away: of 21 sorted distances the 95th percentile is number 20 from 0: 0.
    first, second = np.zeros((1, 40), bool), np.zeros((1, 40), bool)
    first[0, :20] = second[0, :20] = True
    first[0, 29] = True
    assert hausdorff_95(first, second) == 0.0
    assert surface_distances(first, second).hausdorff(100) == 10.0
    second[0, 1:20] = False  # now the first's are 0, 1, ..., 19 and 29 away: number 19 of 0..20
    assert hausdorff_95(first, second) == 19.0
    assert hausdorff_95(second, first) == 19.0


def test_hd95_of_the_tables_pools_both_directions():
    # the first is one pixel, the second it and those 1, 2, ..., 9 away: 11 distances 0, 0, 1, ..., 9; the 95th
    # percentile is number 9.5 from 0, half-way between 8 and 9; of the second's 10 alone, number 8.55 of 0..9
    first, second = np.zeros((1, 12), bool), np.zeros((1, 12), bool)
    first[0, 0] = second[0, :10] = True
    assert hausdorff_95(first, second, pooled=True) == pytest.approx(8.5)
    assert hausdorff_95(second, first, (1.0, 2.0), pooled=True) == pytest.approx(17.0)
    assert hausdorff_95(first, second) == pytest.approx(8.55)


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "distance"),
    [(NONE, NONE, 0.0, 0.0), (SQUARE, NONE, 1.0, 0.0), (NONE, SQUARE, 0.0, 0.0), (SQUARE, SQUARE, 1.0, 0.0)],
)
def test_empty_masks_by_the_rule_of_transunet(prediction, truth, dice, distance):
    assert dice_of_transunet(prediction, truth) == dice
    assert hausdorff_95(prediction, truth, transunet_compat=True) == distance


def test_the_rule_of_transunet_is_dice_where_nothing_is_empty():
    assert dice_of_transunet(SQUARE, np.roll(SQUARE, 1, 1)) == 0.75  # 12 of 16 pixels in common
    assert hausdorff_95(SQUARE, np.roll(SQUARE, 1, 1), transunet_compat=True) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "dice", "distance"),
    [(NONE, NONE, 1.0, 0.0), (SQUARE, NONE, 0.0, None), (NONE, SQUARE, 0.0, None), (SQUARE, SQUARE, 1.0, 0.0)],
)
def test_empty_masks(first, second, dice, distance):
    assert surface_dice(first, second, 1.0) == dice
    assert hausdorff_95(first, second) == distance


def test_distances_in_the_box_are_those_of_the_image():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    first, second = np.pad(rng.random((2, 4, 5, 6)) < 0.3, ((0, 0), (3, 1), (0, 4), (2, 2)))
    spacing = (2.0, 0.7, 1.1)
    whole = ndimage.distance_transform_edt(~surface(second), sampling=spacing)[surface(first)]
    assert surface_distances(first, second, spacing).first == pytest.approx(whole)


def test_the_form_of_ugs_net_counts_all_pixels_and_other_images():
    # one contour, but the four inner pixels of the square count as its surface too: 12 of 16, and 12 of 12
    ring = surface(SQUARE)
    assert surface_dice(SQUARE, ring, 0) == 1.0
    assert batch_surface_dice_of_ugs_net(SQUARE[None, None], ring[None, None], 0) == (12 / 16 + 1) / 2
    assert batch_surface_dice_of_ugs_net(SQUARE[None, None], ring[None, None]) == 1.0
    # the first prediction is empty where truth is not, but the second image's prediction is one "pixel" away
    predictions, truths = np.stack([NONE, SQUARE])[:, None], np.stack([SQUARE, SQUARE])[:, None]
    assert batch_surface_dice_of_ugs_net(predictions, truths) == 1.0
    assert batch_surface_dice_of_ugs_net(predictions[:1], truths[:1]) == 0.0
    assert batch_surface_dice_of_ugs_net(predictions[:1], predictions[:1]) == 1.0
    far = np.stack([dot(0, 0)])[:, None]
    assert batch_surface_dice_of_ugs_net(far, np.stack([dot(0, 0) | dot(5, 5)])[:, None]) == 0.75  # (1 + 1/2) / 2


def test_a_nodule_shows_the_gap_between_both_forms():
    # discs of radius 10 in 64 x 64 pixels, 3 pixels apart
    rows, columns = np.indices((64, 64))
    first = (rows - 32) ** 2 + (columns - 32) ** 2 <= 100
    second = np.roll(first, 3, 0)
    assert surface_dice(first, second, 1.0) < 0.65
    assert batch_surface_dice_of_ugs_net(first[None, None], second[None, None]) > 0.85


def test_bad_input_is_named():
    with pytest.raises(UserError, match="same shape"):
        surface_dice(NONE, np.zeros((6, 5), bool), 1.0)
    with pytest.raises(UserError, match=r"2 sizes above 0, but got \(1.0,\)"):
        hausdorff_95(NONE, NONE, (1.0,))
    with pytest.raises(UserError, match="must not be negative"):
        surface_dice(NONE, NONE, -1.0)
    with pytest.raises(UserError, match=r"\(B, 1, H, W\)"):
        batch_surface_dice_of_ugs_net(NONE, NONE)


def test_cases_share_one_unit():
    assert common_unit([(1.0, 2.0), (1.0, 1.0)], 2) == "mm"
    assert common_unit([(1.0, 2.0), None], 2) == "pixels"  # mm and pixels have no mean
    assert common_unit([], 3) == "voxels"


def test_distances_of_a_case_by_class():
    prediction, truth = np.array([[1, 0, 0, 2, 3]]), np.array([[0, 1, 0, 2, 0]])
    found = case_distances(prediction, truth, 5, [SURFACE_METRICS["nsd"], SURFACE_METRICS["hd95"]], 0.5)
    assert found["nsd"].per_class == (0.0, 1.0, 0.0, None)  # one apart, right, false, in neither
    assert found["hd95"].per_class == (1.0, 0.0, None, None)
    assert (found["nsd"].mean, found["hd95"].mean) == (pytest.approx(1 / 3), 0.5)
    missed = case_distances(truth * 0, truth, 5, [SURFACE_METRICS["hd95"]])["hd95"]
    assert (missed.per_class, missed.mean) == ((None,) * 4, None)
