from __future__ import annotations

from pathlib import Path

import pytest
import torch

from overread.architectures.contract import build_segmenter
from overread.errors import UserError
from overread.records import EpochReport, OptimiserConfig
from overread.testing.tiny import tiny_config
from overread.training.checkpoint import FILE, Progress, load, load_weights, save, save_weights
from overread.training.optimiser import build_optimiser
from overread.training.step import Precision

CPU = torch.device("cpu")


def saved(folder: Path) -> tuple[Progress, torch.nn.Module, torch.optim.Optimizer]:
    model = build_segmenter(tiny_config())
    optimiser = build_optimiser(model, OptimiserConfig())
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimiser.step()
    report = EpochReport(epoch=1, step=4, progress=33, seconds=0.5, metrics={"validation_dice": 0.25})
    progress = Progress(tiny_config(), Precision(channels_last=True), 4, 1, 0.5, 0.25, 1, [report])
    assert save(folder, progress, model, optimiser) == folder
    return progress, model, optimiser


def test_everything_comes_back(tmp_path: Path) -> None:
    progress, model, optimiser = saved(tmp_path)
    again, weights, state = load(tmp_path, tiny_config(), CPU)
    assert again == progress
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    moments = optimiser.state_dict()["state"]
    assert all(torch.equal(moments[i]["exp_avg"], state["state"][i]["exp_avg"]) for i in moments)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_steps_resolved_from_seconds_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    progress, _, _ = load(tmp_path, tiny_config(steps=None, train_seconds=60.0), CPU)
    assert progress.steps == 12


def test_checkpoint_of_another_config_or_none_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(UserError, match="own config"):
        load(tmp_path, tiny_config(seed=1), CPU)
    with pytest.raises(UserError, match="must exist"):
        load(tmp_path / "none", tiny_config(), CPU)


def test_weights_round_trip_and_misfit(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", build_segmenter(tiny_config(seed=1))
    Precision(channels_last=True).place(model, 2)
    save_weights(path, model)
    other = build_segmenter(tiny_config(seed=2))
    load_weights(path, other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="must fit the network"):
        load_weights(path, build_segmenter(tiny_config(options={"width": 6})))
    with pytest.raises(UserError, match="must exist"):
        load_weights(tmp_path / "none.safetensors", other)
