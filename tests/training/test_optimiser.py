from __future__ import annotations

import pytest
import torch
from torch import nn

from overread.records import OptimiserConfig
from overread.training.optimiser import build_optimiser, set_learning_rate


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_named_optimiser_goes_downhill(name: str) -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    config = OptimiserConfig(name=name, learning_rate=0.1, weight_decay=0.0)  # type: ignore[arg-type]
    optimiser = build_optimiser(model, config)
    model(torch.ones(1, 1)).sum().backward()  # gradient 1
    optimiser.step()
    # Nesterov's first step is lr * (1 + momentum), Adam's is lr
    assert model.weight.item() == pytest.approx(1 - (0.19 if name == "sgd" else 0.1), abs=1e-5)
    assert type(optimiser).__name__.lower() == name


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in build_optimiser(model, OptimiserConfig()).param_groups] == [1]


def test_learning_rate_follows_the_schedule() -> None:
    config = OptimiserConfig(learning_rate=0.4, schedule="halving")
    optimiser = build_optimiser(nn.Linear(1, 1), config)
    assert set_learning_rate(optimiser, config, step=4, steps=10) == 0.1
    assert optimiser.param_groups[0]["lr"] == 0.1
