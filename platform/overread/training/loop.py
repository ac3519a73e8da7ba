"""Epochs of one trial: train a share of the steps, validate all cases, keep the best weights, save, report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from overread.architectures.contract import Segmenter
from overread.data.batches import BatchSource
from overread.errors import TrialFailure
from overread.records import Batch, EpochReport, Prepared, TrialConfig, VariantScore
from overread.training.augment import augment
from overread.training.checkpoint import Progress
from overread.training.collective import (
    any_over_ranks,
    average_running_statistics,
    max_over_ranks,
    sum_over_ranks,
)
from overread.training.evaluate import Workers, score_variant
from overread.training.optimiser import set_learning_rate
from overread.training.prefetch import prefetched
from overread.training.seeds import derived_seed
from overread.training.step import Step, place_batch

PACE_TOLERANCE = 0.15
CHECK_EVERY = 20
"""Steps between looks at the loss and the clock: each makes the host wait for the device and the workers agree."""


@dataclass
class Run:
    """What one worker needs to train the epochs of a trial."""

    prepared: Prepared
    segmenter: Segmenter
    """The network itself; `step.model` may be its distributed wrapper."""
    step: Step
    source: BatchSource
    progress: Progress
    workers: Workers
    should_stop: Callable[[], bool]

    @property
    def config(self) -> TrialConfig:
        """The trial's config with its steps resolved."""
        return self.progress.config

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole schedule."""
        return self.progress.steps

    @property
    def epochs(self) -> int:
        """Validations of the whole trial: never more than steps."""
        return min(self.config.epochs, self.progress.end)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience is used up."""
        progress, patience = self.progress, self.config.patience
        tired = patience is not None and progress.epoch - progress.best_epoch >= patience
        return progress.epoch >= self.epochs or (tired and progress.epoch > 0)


def epoch_end(progress: Progress, epochs: int) -> int:
    """Return the steps done after the next epoch: those that are left are spread evenly, and all are used."""
    return progress.step + (progress.end - progress.step) // (epochs - progress.epoch)


def keep_pace(run: Run) -> None:
    """Fit the steps that are left to the seconds that are left, when the pace is not that of the timed step.

    Other work on the machine may begin or end after the steps were timed. In the first half of a training whose steps
    came from a time budget, a pace that is off by more than `PACE_TOLERANCE` changes their number; the schedule
    follows, as it depends on the share that is done. The slowest worker decides for all.
    """
    progress, budget = run.progress, run.progress.budget_seconds
    if budget is None or progress.epoch > run.epochs // 2:
        return
    spent = max_over_ranks(progress.seconds, run.workers.device)
    if abs(spent / progress.step * run.steps / budget - 1) <= PACE_TOLERANCE:
        return
    left = int((budget - spent) * progress.step / spent)
    progress.config = progress.config.resolved(progress.step + max(left, run.epochs - progress.epoch))


def train_epoch(run: Run) -> dict[str, float] | None:
    """Train the next epoch and return its mean losses and last learning rate.

    None: time was up within it and there is an earlier epoch to fall back on; the first epoch ends early instead.
    A loss that is not finite raises `TrialFailure("nan_loss")` on every worker.
    """
    progress = run.progress
    first, end = progress.step, epoch_end(progress, run.epochs)
    last = end
    torch.manual_seed(derived_seed(run.config.seed, progress.epoch, run.workers.rank))  # dropout, same after a resume
    run.segmenter.train()
    sums: dict[str, Tensor] = {}
    rate = run.config.optimiser.learning_rate
    started = time.perf_counter()
    batches = prefetched(run.source.steps(last - first, first), run.workers.device)
    for step, batch in enumerate(batches, first):
        rate = set_learning_rate(run.step.optimiser, run.config.optimiser, step, run.steps)
        for name, value in run.step(_on_device(run, batch, step)).items():
            sums[name] = sums[name] + value.float() if name in sums else value.float()
        if ((step + 1 - first) % CHECK_EVERY == 0 or step + 1 == last) and _checked(run, sums["loss"], step):
            last = step + 1
            break
    progress.seconds += time.perf_counter() - started
    if last < end and progress.epoch > 0:
        return None
    progress.step, progress.epoch = last, progress.epoch + 1
    return _means(run, sums, last - first) | {"learning_rate": rate}


def _on_device(run: Run, batch: Batch, step: int) -> Batch:
    batch = batch.to(run.workers.device, non_blocking=True)
    batch = augment(batch, run.config.augment, seed=run.config.seed, step=step, share=run.step.share)
    return place_batch(batch, run.step.precision)


def _checked(run: Run, loss: Tensor, step: int) -> bool:
    """Raise on all workers if a loss since the start of the epoch was not finite; return whether time is up."""
    device = run.workers.device
    if any_over_ranks(not math.isfinite(float(loss)), device):
        raise TrialFailure("nan_loss", f"the loss was not finite by step {step + 1}: use a lower learning rate")
    return any_over_ranks(run.should_stop(), device)


def _means(run: Run, sums: dict[str, Tensor], steps: int) -> dict[str, float]:
    """Return the mean over steps and samples of all workers, by term; the whole loss is `train_loss`."""
    names = sorted(sums)
    local = torch.stack([sums[name] for name in names]) * run.step.share.local
    means = sum_over_ranks(local, run.workers.device) / (run.step.share.size * steps)
    keys = ["train_loss" if name == "loss" else f"loss_{name}" for name in names]
    return dict(zip(keys, means.tolist(), strict=True))


def validate(run: Run, losses: dict[str, float]) -> tuple[EpochReport, VariantScore | None]:
    """Validate after an epoch and note the best; the report is the same on every worker.

    Without validation cases (`ALL_FOLDS`) there is no score, and the last epoch is the best.
    """
    average_running_statistics(run.segmenter)
    cases = run.prepared.splits.fold(run.config.fold).validation
    progress, metrics, score = run.progress, dict(losses), None
    if cases:
        score = score_variant(
            run.segmenter, run.prepared, cases, run.config, None, run.workers, precision=run.step.precision
        )
        if score.dice > progress.best_dice:
            progress.best_dice, progress.best_epoch = score.dice, progress.epoch
        metrics |= {"validation_dice": score.dice, "best_validation_dice": progress.best_dice}
        metrics |= {f"dice_{label}": dice for label, dice in score.dice_per_class.items() if dice is not None}
    else:
        progress.best_epoch = progress.epoch
    report = EpochReport(
        epoch=progress.epoch,
        step=progress.step,
        progress=100 * progress.step // progress.end,
        seconds=progress.seconds,
        metrics=metrics,
    )
    progress.reports.append(report)
    return report, score
