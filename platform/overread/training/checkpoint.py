"""Checkpoints of a running training and the weights it leaves.

A checkpoint is a folder with one file of tensors and primitives (read back with `weights_only=True`, so it runs no
code), written at the end of an epoch. Data, augmentation and dropout are seeded by step, so it holds no random state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn, optim

from overread.errors import UserError
from overread.jsonio import write_with
from overread.records import EpochReport, TrialConfig
from overread.training.step import Precision

FILE = "checkpoint.pt"
VERSION = 1


@dataclass
class Progress:
    """Where a training stands, at the end of an epoch."""

    config: TrialConfig
    """With its steps resolved."""
    precision: Precision
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    reports: list[EpochReport] = field(default_factory=list)
    budget_seconds: float | None = None
    """Training seconds that the steps were resolved from; None: the steps were given."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole trial."""
        if self.config.steps is None:
            raise ValueError("a training must know its steps, but the config has only train_seconds: resolve it first")
        return self.config.steps

    @property
    def end(self) -> int:
        """Step that the training ends at: the last, or an earlier one that the config names."""
        return self.config.stop_step or self.steps


def save(folder: Path, progress: Progress, model: nn.Module, optimiser: optim.Optimizer) -> Path:
    """Write the checkpoint, whole or not at all, and return its folder."""
    content = {
        "version": VERSION,
        "config": progress.config.to_json(),
        "bf16": progress.precision.bf16,
        "channels_last": progress.precision.channels_last,
        "step": progress.step,
        "epoch": progress.epoch,
        "seconds": progress.seconds,
        "best_dice": progress.best_dice,
        "best_epoch": progress.best_epoch,
        "budget_seconds": progress.budget_seconds,
        "reports": [report.to_json() for report in progress.reports],
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    write_with(folder / FILE, lambda path: torch.save(content, path))
    return folder


def load(folder: Path, config: TrialConfig, device: torch.device) -> tuple[Progress, dict[str, Any], dict[str, Any]]:
    """Return the progress, the model's and the optimiser's state; a checkpoint of another config raises `UserError`."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"checkpoint {path} must exist, but it does not: start the trial without resuming")
    content = torch.load(path, map_location=device, weights_only=True)
    saved = TrialConfig.from_json(content["config"])
    if content["version"] != VERSION or not _same_training(saved, config):
        raise UserError(f"checkpoint {path} must be of the trial's own config, but it is of another: use a new folder")
    progress = Progress(
        config=saved,
        precision=Precision(bf16=content["bf16"], channels_last=content["channels_last"]),
        step=content["step"],
        epoch=content["epoch"],
        seconds=content["seconds"],
        best_dice=content["best_dice"],
        best_epoch=content["best_epoch"],
        reports=[EpochReport.from_json(report) for report in content["reports"]],
        budget_seconds=content["budget_seconds"],
    )
    return progress, content["model"], content["optimiser"]


def _same_training(saved: TrialConfig, config: TrialConfig) -> bool:
    """Compare configs; steps that were resolved from a time budget are those of the checkpoint."""
    steps = config.steps if config.steps is not None else saved.steps
    return saved.to_json() == config.resolved(steps or 0).to_json()


def save_weights(path: Path, model: nn.Module) -> None:
    """Write parameters and buffers as safetensors, whole or not at all."""
    write_with(path, lambda temporary: save_model(model, str(temporary)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read `save_weights`; a missing file or weights of another network raise `UserError`."""
    if not path.is_file():
        raise UserError(f"weights {path} must exist, but they do not: train the member again or restore the file")
    try:
        load_model(model, str(path), strict=True)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"weights {path} must fit the network, but {problem}: use the config they belong to") from error
