"""The picture of a case: the right slice, and a colour per class that does not depend on which classes are there."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from overread.confidence.relations import Relations
from overread.confidence.scores import case_confidence
from overread.data.images import NativeImage
from overread.data.overlay import CAPTION_HEIGHT, layer_colour
from overread.ensemble.predict import CaseReading
from overread.pipeline.pictures import case_picture, reading_view
from overread.records import Preprocessing

VOLUME = Preprocessing(channels=("x",), ct=(False,), spatial_dims=3, slice_axis=2, max_side=64)


def reading(mask: np.ndarray) -> CaseReading:
    relations = Relations(mask.shape, 3)
    relations.add(mask, "a")
    probabilities = np.stack([mask == k for k in range(3)]).astype(np.float32)
    confidence = case_confidence("c", relations, ("background", "one", "two"), 1.0)
    return CaseReading("c", mask, probabilities, relations, confidence)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_slice_with_most_foreground_in_the_colour_of_its_class() -> None:
    mask = np.zeros((32, 32, 4), np.uint8)
    mask[8:24, 8:24, 3] = 2
    native = NativeImage(
        array=np.zeros((1, 32, 32, 4), np.float32), spacing=None, affine=None, dtype="float32", file_format=".nii.gz"
    )
    picture = pixels(case_picture(native, reading(mask), None, VOLUME))
    colours = {tuple(colour) for colour in picture[CAPTION_HEIGHT:].reshape(-1, 3)}
    assert layer_colour("class 2", 1) in colours
    assert layer_colour("class 1", 0) not in colours


def test_the_view_has_prediction_truth_and_every_member() -> None:
    mask = np.zeros((32, 32, 4), np.uint8)
    mask[8:24, 8:24, 3] = 2
    native = NativeImage(
        array=np.zeros((1, 32, 32, 4), np.float32),
        spacing=(1.0, 2.0, 3.0),
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        dtype="float32",
        file_format=".nii.gz",
    )
    view = reading_view(native, reading(mask), np.zeros_like(mask), VOLUME)
    assert view.layers == ("prediction", "truth", "a")
    assert view.planes == ("axial", "coronal", "sagittal")
    assert (view.native, view.voxel) == ((4, 32, 32), (3.0, 2.0, 1.0))
    assert view.key == 0  # the last slice of the file: the page runs from superior to inferior
    assert view.key_slice.table == ((0, 0, 0), (2, 0, 2))
