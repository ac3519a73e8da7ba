from __future__ import annotations

import pytest
import torch

from overread.architectures.contract import build_segmenter
from overread.records import Extra, Needs, Prepared
from overread.testing.tiny import tiny_config
from overread.training import timing
from overread.training.step import Precision

CPU = torch.device("cpu")


def test_time_step_is_positive_and_adds_loading(prepared: Prepared) -> None:
    assert 0 < timing.time_step(tiny_config(), None, CPU) < 5
    assert 0 < timing.time_step(tiny_config(), prepared, "cpu") < 5
    assert 0 < timing.load_seconds(tiny_config(), prepared, Needs()) < 1


@pytest.mark.parametrize(("times", "bf16"), [((1.0, 0.9), False), ((1.0, 0.8), True)])
def test_bf16_is_taken_only_by_a_margin(monkeypatch: pytest.MonkeyPatch, times: tuple[float, ...], bf16: bool) -> None:
    answers = iter(times)
    monkeypatch.setattr(timing, "timed", lambda *arguments, **options: next(answers))
    monkeypatch.setattr(timing, "cpu_has_bf16", lambda: True)
    config = tiny_config(mixed_precision=True)
    assert timing.choose_precision(config, build_segmenter(config), CPU) == Precision(bf16=bf16, channels_last=True)


@pytest.mark.parametrize(("mixed", "hardware"), [(False, True), (True, False)])
def test_nothing_is_timed_where_bf16_is_not_wanted_or_emulated(
    monkeypatch: pytest.MonkeyPatch, mixed: bool, hardware: bool
) -> None:
    monkeypatch.setattr(timing, "timed", None)
    monkeypatch.setattr(timing, "cpu_has_bf16", lambda: hardware)
    config = tiny_config(mixed_precision=mixed)
    assert timing.choose_precision(config, build_segmenter(config), CPU) == Precision(channels_last=True)


def test_3d_networks_train_in_float32_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "timed", None)
    monkeypatch.setattr(timing, "cpu_has_bf16", lambda: True)
    config = tiny_config(mixed_precision=True, spatial_dims=3, patch_size=(4, 8, 8))
    segmenter = build_segmenter(tiny_config())
    assert timing.choose_precision(config, segmenter, CPU) == Precision(channels_last=True)


def test_timing_leaves_weights_statistics_and_random_state_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(options={"dropout": 0.5}, mixed_precision=True)
    segmenter = build_segmenter(config)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    monkeypatch.setattr(timing, "cpu_has_bf16", lambda: True)
    state = torch.get_rng_state()
    timing.choose_precision(config, segmenter, CPU)
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_synthetic_batch_has_all_that_is_needed() -> None:
    needs = Needs(size_multiple=6, pairs=True, annotators=True, instances=True, extras={"map": Extra(3, "v1")})
    batch = timing.synthetic_batch(tiny_config(), needs, 2)
    assert batch.images.shape == (2, 1, 12, 12)
    assert batch.labels.shape == (2, 2, 12, 12)
    assert batch.extras["map"].shape == (2, 3, 12, 12)
    assert batch.instances is not None
    assert batch.partner is not None
    assert batch.partner.partner is None


def test_a_step_is_timed_before_the_extras_are_stored(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = build_segmenter(tiny_config())
    segmenter.needs = Needs(extras={"maps": Extra(3, "not-stored")})
    monkeypatch.setattr(timing, "build_segmenter", lambda config: segmenter)
    assert timing.time_step(tiny_config(), prepared, "cpu") > 0
