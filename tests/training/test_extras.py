from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from overread.architectures.attention_maps import AttentionMaps
from overread.architectures.contract import Losses, build_segmenter
from overread.data.store import open_case
from overread.records import AugmentConfig, Batch, Extra, Needs, Prepared, Readings, Variant
from overread.testing.tiny import TinyOptions, TinySegmenter, tiny_architecture, tiny_config, tiny_prepared
from overread.training.evaluate import predict_case
from overread.training.extras import case_extras, ensure_extras, extras_seconds, lacking_extras, stored_extras
from overread.training.inference import predict_volume
from overread.training.worker import WorkerContext, train_trial

CALLS: list[float] = []
"""Sum of each image that extras were computed for."""


class MappedSegmenter(TinySegmenter):
    """Needs the doubled image and refuses a batch where it is not."""

    def __init__(
        self,
        options: TinyOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(options, in_channels=in_channels, classes=classes, spatial_dims=spatial_dims, losses=losses)
        self.needs = Needs(extras={"twice": Extra(in_channels, "v1")})

    def case_inputs(self, image: Tensor) -> dict[str, Tensor]:
        assert not self.training
        CALLS.append(float(image.sum()))
        return {"twice": 2 * image}

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        assert torch.allclose(batch.extras["twice"], 2 * batch.images)
        return super().forward(batch, part)

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        assert torch.allclose(batch.extras["twice"], 2 * batch.images)
        return super().read(batch, variant=variant)


@pytest.fixture(autouse=True)
def mapped() -> Iterator[None]:
    CALLS.clear()
    with tiny_architecture(MappedSegmenter, "mapped"):
        yield


CONFIG = tiny_config(architecture="mapped", steps=2, epochs=2, augment=AugmentConfig(intensity=0.0))


def context_of(folder: Path) -> WorkerContext:
    return WorkerContext(trial_id="trial", folder=folder, device=torch.device("cpu"), threads=1)


def test_a_training_computes_the_extras_of_each_case_once(prepared: Prepared, tmp_path: Path) -> None:
    outcome = train_trial(CONFIG, prepared, context_of(tmp_path / "a"))
    assert (outcome.state, outcome.epochs[-1].step) == ("finished", 2)
    images = [float(open_case(prepared, case.id).image.sum()) for case in prepared.cases]
    assert sorted(CALLS) == pytest.approx(sorted(images), rel=1e-4)
    train_trial(CONFIG, prepared, context_of(tmp_path / "b"))
    assert len(CALLS) == len(prepared.cases)  # another trial finds them


def test_only_what_is_missing_is_computed_and_stored_under_its_key(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG)
    assert stored_extras(segmenter.needs, prepared, "case1") is None
    ensure_extras(segmenter, prepared, ["case1"])
    ensure_extras(segmenter, prepared, ["case1", "case2"])
    assert len(CALLS) == 2
    assert segmenter.training
    arrays = open_case(prepared, "case1")
    assert (arrays.folder / "extra_twice-v1.npy").is_file()
    stored = stored_extras(segmenter.needs, prepared, "case1")
    assert stored is not None
    np.testing.assert_array_equal(stored["twice"].numpy(), 2 * np.asarray(arrays.image))
    assert stored_extras(Needs(extras={"twice": Extra(1, "v2")}), prepared, "case1") is None


def test_prepared_cases_are_read_with_stored_extras_and_new_ones_compute_theirs(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG).eval()
    ensure_extras(segmenter, prepared, ["case0"])
    mask = predict_case(segmenter, prepared, "case0", CONFIG, None, "cpu")
    assert len(CALLS) == 1
    for _ in range(2):  # such as a locked case, read by two members
        predict_case(segmenter, prepared, "case1", CONFIG, None, "cpu")
    assert len(CALLS) == 2
    image = np.array(open_case(prepared, "case0").image)
    new = predict_volume(segmenter, image, CONFIG, None, "cpu")
    assert len(CALLS) == 3
    np.testing.assert_array_equal(mask, new.argmax(0)[0])


def test_extras_of_another_shape_are_refused(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG)
    segmenter.needs = Needs(extras={"twice": Extra(3, "v1")})
    with pytest.raises(ValueError, match=r"'twice' of shape \(3, 1, 8, 8\), but gave \(1, 1, 8, 8\)"):
        ensure_extras(segmenter, prepared, ["case0"])
    segmenter.needs = Needs(extras={"other": Extra(1, "v1")})
    with pytest.raises(ValueError, match=r"'other'.*gave None"):
        ensure_extras(segmenter, prepared, ["case0"])


def test_what_is_computed_and_why_is_said_once(prepared: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "overread.training.extras")
    ids = [case.id for case in prepared.cases]
    segmenter = build_segmenter(CONFIG)
    assert ensure_extras(segmenter, prepared, ids) == 10
    assert ensure_extras(segmenter, prepared, ids) == 0
    assert [record.message for record in caplog.records] == [
        "computing twice of 10 cases of 'tiny': none are stored yet"
    ]
    caplog.clear()
    segmenter.needs = Needs(extras={"twice": Extra(1, "v2")})
    assert ensure_extras(segmenter, prepared, ids[:4]) == 4
    assert [record.message for record in caplog.records] == [
        "computing twice of 4 cases of 'tiny': those stored are of other weights, settings or data"
    ]


def test_the_driver_knows_what_a_trial_will_compute(prepared: Prepared) -> None:
    assert lacking_extras(tiny_config(), prepared) == ""
    assert lacking_extras(CONFIG, prepared) == "computing twice of 10 cases of 'tiny': none are stored yet"
    open_case(prepared, "case3").write_extra("twice-v0", np.zeros((1, 1, 8, 8)))
    of_others = "computing twice of 10 cases of 'tiny': those stored are of other weights, settings or data"
    assert lacking_extras(CONFIG, prepared) == of_others
    assert CALLS == []  # asking computes nothing
    ensure_extras(build_segmenter(CONFIG), prepared, [case.id for case in prepared.cases])
    assert lacking_extras(CONFIG, prepared) == ""


def test_extras_of_another_shape_than_the_case_are_computed_anew(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG)
    arrays = open_case(prepared, "case0")
    arrays.write_extra("twice-v1", np.zeros((1, 1, 4, 4)))
    assert stored_extras(segmenter.needs, prepared, "case0") is None
    assert ensure_extras(segmenter, prepared, ["case0"]) == 1
    np.testing.assert_array_equal(arrays.read_extra("twice-v1"), 2 * arrays.image)


def test_a_case_that_another_trial_has_stored_meanwhile_is_left_out(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG)
    ids = [case.id for case in prepared.cases]
    inner = segmenter.case_inputs

    def race(image: Tensor) -> dict[str, Tensor]:
        for case_id in ids:  # another process was as fast with all the others
            arrays = open_case(prepared, case_id)
            arrays.write_extra("twice-v1", 2 * arrays.image)
        return inner(image)

    segmenter.case_inputs = race  # type: ignore[method-assign]
    ensure_extras(segmenter, prepared, ids)
    assert len(CALLS) == 1


@pytest.mark.parametrize("kept", [0, 40, 200])
def test_a_file_that_is_cut_short_is_computed_anew(prepared: Prepared, kept: int) -> None:
    segmenter = build_segmenter(CONFIG)
    ensure_extras(segmenter, prepared, ["case0"])
    arrays = open_case(prepared, "case0")
    path = arrays.folder / "extra_twice-v1.npy"
    path.write_bytes(path.read_bytes()[:kept])
    assert stored_extras(segmenter.needs, prepared, "case0") is None
    assert case_extras(segmenter, prepared, "case0")["twice"].shape == (1, 1, 8, 8)
    assert segmenter.training
    np.testing.assert_array_equal(arrays.read_extra("twice-v1"), 2 * arrays.image)


def test_what_computing_took_is_kept_beside_the_extras(prepared: Prepared) -> None:
    segmenter = build_segmenter(CONFIG)
    ids = [case.id for case in prepared.cases]
    assert extras_seconds(segmenter.needs, prepared, ids) == []
    ensure_extras(segmenter, prepared, ids[:3])
    open_case(prepared, ids[3]).write_extra("twice-v1", np.zeros((1, 1, 8, 8)), 2.5)
    found = extras_seconds(segmenter.needs, prepared, ids)
    assert len(found) == 4
    assert found[3] == 2.5
    assert all(0 < seconds < 2.5 for seconds in found[:3])


def test_two_trainings_and_readers_of_dai_net_compute_the_maps_of_a_case_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = tiny_prepared(tmp_path, cases=6, shape=(1, 16, 16))
    asked: list[int] = []
    forward = AttentionMaps.forward

    def counted(self: AttentionMaps, image: Tensor) -> Tensor:
        asked.append(image.shape[1])
        return forward(self, image)

    monkeypatch.setattr(AttentionMaps, "forward", counted)
    attention = {"vit": {"size": "tiny", "patch": 16, "depth": 1}, "image_size": 16}
    for name, switches in (("a", [True] * 4), ("b", [False] * 4)):
        options = {"width": 1, "attention": attention, "switches": switches}
        config = replace(CONFIG, architecture="dai_net", options=options, patch_size=(16, 16), steps=1, epochs=1)
        assert train_trial(config, prepared, context_of(tmp_path / name)).state == "finished"
        assert asked == [1] * 6  # the second finds those of the first
