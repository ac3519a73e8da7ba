"""Overlay pictures, pixel by pixel."""

import io

import numpy as np
from PIL import Image

from overread.data.overlay import COLOURS, ROLES, best_slice, contour, draw_overlay, layer_colour, panel_png


def test_best_slice() -> None:
    mask = np.zeros((5, 4, 4), np.uint8)
    assert best_slice(mask) == 2
    mask[1, 0, 0] = 3
    mask[4, :2, 0] = 1
    assert best_slice(mask) == 4


def test_contour_is_the_inner_border_and_separates_classes() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    expected = mask.copy()
    expected[2, 2] = False
    np.testing.assert_array_equal(contour(mask), expected)
    np.testing.assert_array_equal(
        contour(np.array([[1, 1, 1, 2, 2, 2]] * 3))[1], [True, False, True, True, False, True]
    )
    assert not contour(np.zeros((3, 3))).any()


def test_overlay_keeps_grey_and_draws_coloured_contours() -> None:
    image = np.zeros((8, 8))
    image[:, 4:] = 100.0
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    pixels = np.asarray(draw_overlay(image, {"prediction": mask}, side=8))
    assert pixels.shape == (8, 8, 3)
    assert tuple(pixels[0, 0]) == (0, 0, 0)
    assert tuple(pixels[0, 7]) == (255, 255, 255)
    assert tuple(pixels[2, 2]) == ROLES["prediction"]
    assert tuple(pixels[3, 3]) == (0, 0, 0)


def test_overlay_is_enlarged_by_whole_factors_and_survives_flat_images() -> None:
    assert np.asarray(draw_overlay(np.zeros((30, 60)), {}, side=256)).shape == (120, 240, 3)
    assert np.asarray(draw_overlay(np.full((300, 300), np.nan), {}, side=256)).shape == (300, 300, 3)


def test_panels_stand_side_by_side_under_their_captions() -> None:
    image = np.zeros((32, 32))
    png = panel_png([("image", image, {}), ("truth", image, {"truth": np.ones((32, 32))})], side=32)
    picture = Image.open(io.BytesIO(png))
    pixels = np.asarray(picture)
    assert picture.format == "PNG"
    assert pixels.shape == (32 + 18, 32 + 6 + 32, 3)
    assert pixels[:18, :32].max() > 200  # caption text
    assert tuple(pixels[18, 38]) == ROLES["truth"]


def test_layers_without_a_role_take_the_palette_in_turn() -> None:
    assert layer_colour("annotator1", 1) == COLOURS[1]
    assert layer_colour("annotator7", 7) == COLOURS[1]
    assert len({*ROLES.values()}) == len(ROLES)
