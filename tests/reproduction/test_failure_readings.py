"""Readings kept small and read together: what is stored, and figures worked by hand."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from overread.architectures import build_segmenter
from overread.confidence.relations import Relations
from overread.data.corruptions import conditions
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.ensemble.readings import encode
from overread.jsonio import write_json
from overread.records import Prepared, PrepareSettings, TrialConfig
from overread.reproduction import failure_readings
from overread.reproduction.failure import PROTOCOLS
from overread.reproduction.failure_readings import (
    READINGS,
    EnsembleItem,
    agreement,
    at,
    conditions_of,
    figures_of,
    member_scores,
    read_case,
    read_condition,
    read_together,
    readings_of,
    same_as_main,
)
from overread.reproduction.measuring import TestCase
from overread.training.inference import predict_alternatives, predict_volume


def two_classes(foreground: list[float]) -> np.ndarray:
    """Return probabilities (2, n)."""
    values = np.asarray(foreground, np.float32)
    return np.stack([1 - values, values])


def test_figures_of_one_reading() -> None:
    found = figures_of(two_classes([0.9, 0.2, 0.6]), np.array([1, 1, 0], np.uint8))
    assert found["class_dice"] == pytest.approx(0.5)  # one of two found, one of two true
    assert found["foreground"] == pytest.approx(0.9)
    assert (found["volume_pixels"], found["components"]) == (2.0, 2.0)
    empty = figures_of(two_classes([0.1, 0.2]), np.array([1, 0], np.uint8))
    assert empty["class_dice"] == 0.0 and empty["entropy"] is None


def test_agreement_of_readings_is_the_mean_over_classes() -> None:
    relations = Relations((4,), classes=3)
    for mask in ([1, 1, 0, 2], [1, 0, 0, 2]):
        relations.add(np.array(mask))
    found = agreement(relations)
    assert found["pairwise_dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["relation_confidence"] == found["pairwise_dice"]  # the same for two readings
    assert found["all_empty"] == 0.0
    nothing = Relations((2,), classes=2)
    nothing.add(np.zeros(2, np.uint8))
    nothing.add(np.zeros(2, np.uint8))
    assert agreement(nothing) == {"pairwise_dice": None, "relation_confidence": None, "all_empty": 1.0}


def test_scores_of_members_are_those_of_the_condition() -> None:
    told = [{"class_dice": 0.1}, {"c_12": 0.5, "c_12@blur-1": 0.4, "entropy": -0.1}]
    assert member_scores(told, "clean") == {"c_12": 0.5}
    assert member_scores(told, "blur-1") == {"c_12": 0.4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    data = write_phantom(folder / "phantom", PhantomSettings(cases=8, size=32, classes=2, seed=1))
    return prepare_dataset(data, PrepareSettings(max_side=24, folds=2), folder / "cache")


def test_readings_of_members_are_fused_in_the_grid_of_the_case(prepared: Prepared, tmp_path: Path) -> None:
    case = prepared.splits.folds[0][0]  # not locked: clean alone
    assert conditions_of(prepared, case) == ("clean",)
    assert conditions_of(prepared, prepared.splits.locked[0]) == conditions()
    half = np.zeros((2, 1, 24, 24), np.float32)
    half[1, 0, :12] = 1.0  # the upper half, surely
    faint = np.zeros_like(half)
    faint[1, 0, :, :12] = 0.6  # the left half, hardly
    for name, probabilities in (("a", half), ("b", faint)):
        folder = tmp_path / name / READINGS
        folder.mkdir(parents=True)
        np.savez_compressed(folder / f"{case}.npz", clean=encode(probabilities))
        write_json(folder / f"{case}.json", {"c_12": 0.5} if name == "b" else {})
    folders = {name: str(tmp_path / name) for name in "ab"}
    item = EnsembleItem(case=case, prepared=prepared.root, folders=folders, kept=str(tmp_path / "kept.json"))
    found = read_together(item)
    # upper left (1 + 0.6) / 2 and upper right 1/2, the latter a tie that goes to the background
    assert found.values["foreground"] == pytest.approx(0.8)
    assert found.values["pairwise_dice"] == pytest.approx(0.5, abs=0.05)  # two halves share a quarter
    assert found.values["relation_confidence"] == found.values["pairwise_dice"]
    assert found.values["c_12"] == 0.5 and found.group == prepared.case(case).group
    readings_of(tmp_path / "a", case).unlink()
    assert read_together(item) == found  # an interrupted ensemble does not read the case again


def test_a_case_is_read_once(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrialConfig(
        architecture="mc_dropout", options={"width": 2, "passes": 3}, losses={}, in_channels=1, classes=2,
        spatial_dims=2, patch_size=(32, 32), batch_size=2, steps=1, epochs=1,
    )  # fmt: skip
    locked = prepared.splits.locked[0]
    given = (build_segmenter(config).eval(), config, prepared, locked, PROTOCOLS["small"], "cpu")
    monkeypatch.setattr(failure_readings, "conditions", lambda: ("clean", "noise-3"))
    values = read_case(TestCase("r", *given, tmp_path))
    assert {"class_dice", "pairwise_dice", "mc_dropout_c", at("mc_dropout_c", "noise-3")} <= set(values)
    path = tmp_path / READINGS / f"{locked}.npz"
    assert zipfile.ZipFile(path).namelist() == ["clean.npy", "noise-3.npy"]
    path.unlink()
    assert read_case(TestCase("r", *given, tmp_path)) == values and not path.exists()  # told from its figures


def test_the_mask_of_dropout_is_that_of_the_mean_of_its_passes(prepared: Prepared, tmp_path: Path) -> None:
    config = TrialConfig(
        architecture="mc_dropout", options={"width": 4, "passes": 3}, losses={}, in_channels=1, classes=2,
        spatial_dims=2, patch_size=(32, 32), batch_size=2, steps=1, epochs=1,
    )  # fmt: skip
    segmenter = build_segmenter(config).eval()
    case = TestCase("r", segmenter, config, prepared, prepared.splits.locked[0], PROTOCOLS["small"], "cpu")
    values, codes = read_condition(case, "clean")
    passes = [read for _, read in predict_alternatives(segmenter, case.image, config, None, "cpu")]
    mean = np.mean(passes, axis=0)
    assert len(passes) == 3 and not np.allclose(passes[0], mean)
    np.testing.assert_allclose(codes, encode(mean), atol=1)
    assert values["class_dice"] == pytest.approx(case.class_dice(case.native(mean).argmax(0)))


def test_the_main_reading_is_taken_from_the_scales(prepared: Prepared) -> None:
    options = {"width": 2, "scales": [1, 2], "pools": 2, "transformer_depth": 1, "heads": 2, "position_grid": 4}
    config = TrialConfig(
        architecture="unetmer", options=options, losses={}, in_channels=1, classes=2, spatial_dims=2,
        patch_size=(32, 32), batch_size=2, steps=1, epochs=1,
    )  # fmt: skip
    segmenter = build_segmenter(config).eval()
    assert same_as_main(segmenter) == "scale_1"
    case = TestCase("r", segmenter, config, prepared, prepared.splits.locked[0], PROTOCOLS["small"], "cpu")
    values, codes = read_condition(case, "clean")
    direct = predict_volume(segmenter, case.image, config, None, "cpu")
    np.testing.assert_array_equal(codes, encode(direct))
    assert values["class_dice"] == case.class_dice(case.native(direct).argmax(0))
    assert values["pairwise_dice"] == values["c_12"]
