import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from overread.data.images import NativeImage
from overread.ensemble.package import Package
from overread.ensemble.reader import MemberReader, class_ids
from overread.records import Batch, Extra, Needs, Readings
from overread.testing.drawn import DrawnSegmenter, drawn_member, drawn_package

HALF = np.full((2, 2, 2), 0.5)


def grey() -> NativeImage:
    return NativeImage(np.arange(4, dtype=np.float32).reshape(1, 2, 2), None, None, "uint8", ".png")


def test_class_ids_of_ties_go_to_the_lower_id() -> None:
    probabilities = np.array([[0.5, 0.2], [0.5, 0.3], [0.0, 0.5]], np.float32)
    assert class_ids(probabilities).tolist() == [0, 2]
    assert class_ids(probabilities).dtype == np.uint8


class TwoHeads(DrawnSegmenter):
    """Relates a variant with an alternative reading."""

    def relation_sets(self) -> Mapping[str, tuple[str, str]]:
        return {"heads_c": ("main", "other"), "own_c": ("main", "main")}

    def read(self, batch: Batch, **options: Any) -> Readings:
        readings = super().read(batch, **options)
        others = [("unused", readings.probabilities), ("other", 1 - readings.probabilities)]
        return Readings(probabilities=readings.probabilities, alternatives=lambda: iter(others))


def test_relation_sets_name_variants_and_alternatives() -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": np.array([[[0.1, 0.9]] * 2] * 2)}})
    drawn = np.array([[[0.2, 0.2], [0.2, 0.9]], [[0.8, 0.8], [0.8, 0.1]]])  # three voxels; the other head: one
    package.segmenter = lambda member, device="cpu": TwoHeads({"main": drawn})  # type: ignore[method-assign]
    reader = MemberReader(package, grey(), "cpu")
    assert reader.relation_scores(()) == {"heads_c": 0.0, "own_c": 1.0}
    assert reader.relation_scores({"m"}) == {"heads_c": None, "own_c": None}


class ManyPasses(DrawnSegmenter):
    """Relates three alternative readings: masks of 3, 2 and 2 voxels, 1 in all and 4 in any of them."""

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        return {"passes_c": ("pass_1", "pass_2", "pass_3")}

    def read(self, batch: Batch, **options: Any) -> Readings:
        readings = super().read(batch, **options)
        masks = torch.tensor([[[1, 1], [1, 0]], [[0, 1], [1, 0]], [[0, 1], [0, 1]]]).float()
        passes = [(f"pass_{i}", torch.stack([1 - mask, mask])[None]) for i, mask in enumerate(masks, start=1)]
        return Readings(
            probabilities=readings.probabilities,
            alternatives=lambda: iter([("unused", readings.probabilities), *passes]),
        )


def test_a_relation_set_may_have_many_readings() -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": HALF}})
    package.segmenter = lambda member, device="cpu": ManyPasses({"main": HALF})  # type: ignore[method-assign]
    assert MemberReader(package, grey(), "cpu").relation_scores(()) == {"passes_c": 2 * 1 / (1 + 4)}


def test_a_set_without_its_readings_is_left_out_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": HALF, "scale_1": HALF, "scale_2": HALF}})
    package.relation_sets = lambda member: {"c_14": ("scale_1", "scale_4")}  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert MemberReader(package, grey(), "cpu").relation_scores(()) == {"c_14": None}
    assert "c_14 of member m are left out: UserError: c_14 must have all readings, but scale_4" in caplog.text


def test_each_architecture_gives_the_scores_of_its_first_member() -> None:
    scales = {"main": HALF, "scale_1": HALF, "scale_2": HALF}
    package = drawn_package(
        (2, 2), ("background", "organ"), {"plain": {"main": HALF}, "a": scales, "b": scales | {"scale_4": HALF}}
    )
    assert list(MemberReader(package, grey(), "cpu").relation_scores(())) == ["c_12"]


def test_relation_sets_come_from_the_config_alone(tmp_path: Path) -> None:
    member = drawn_member("a", (2, 2), 2, ["main", "scale_1", "scale_2", "scale_8"])
    package = Package(tmp_path, drawn_package((2, 2), ("background", "organ"), {}).manifest)  # no weights there
    expected = {"c_12": ("scale_1", "scale_2"), "c_18": ("scale_1", "scale_8"), "c_28": ("scale_2", "scale_8")}
    assert package.relation_sets(member) == package.relation_sets(member) == expected
    assert package.relation_sets(drawn_member("a", (2, 2), 2, ["main"])) == {}


def test_probabilities_come_back_in_the_native_grid() -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": HALF}})
    image = NativeImage(np.arange(4, dtype=np.float32).reshape(1, 2, 2), None, None, "uint8", ".png")
    reader = MemberReader(package, image, "cpu")
    found = reader.attempt(package.manifest.members[0], {})
    assert found is not None
    np.testing.assert_allclose(found, HALF)


def test_failure_is_noted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": RuntimeError("no")}})
    reader = MemberReader(package, NativeImage(np.ones((1, 2, 2), np.float32), None, None, "uint8", ".png"), "cpu")
    failed: dict[str, str] = {}
    with caplog.at_level(logging.WARNING):
        assert reader.attempt(package.manifest.members[0], failed) is None
    assert failed == {"m": "RuntimeError: no"}
    assert "member m is left out: RuntimeError: no" in caplog.text


class Mapped(DrawnSegmenter):
    """Needs the image itself, under a key."""

    def __init__(self, key: str, asked: list[str]) -> None:
        super().__init__({"main": HALF})
        self.needs = Needs(extras={"map": Extra(channels=1, key=key)})
        self.key, self.asked = key, asked

    def case_inputs(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self.asked.append(self.key)
        return {"map": image}

    def read(self, batch: Batch, **options: Any) -> Readings:
        assert torch.equal(batch.extras["map"], batch.images)
        return super().read(batch, **options)


def test_members_with_one_teacher_share_the_maps_of_a_case() -> None:
    package = drawn_package((2, 2), ("background", "organ"), {"m": {"main": HALF}})
    (member,) = package.manifest.members
    reader, asked = MemberReader(package, grey(), "cpu"), list[str]()
    for key in ("a", "a", "b"):
        segmenter = Mapped(key, asked)
        np.testing.assert_allclose(reader.read(member, segmenter, segmenter.variant("main")), HALF)
    assert asked == ["a", "b"]
