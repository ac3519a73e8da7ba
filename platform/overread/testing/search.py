"""Doubles for tests of the search: a worker that trains nothing, in milliseconds, and leaves what a real one leaves."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overread.errors import TrialFailure
from overread.jsonio import read_json, write_json
from overread.records import EpochReport, Prepared, TrialConfig, TrialOutcome, VariantScore

if TYPE_CHECKING:
    from overread.training.worker import WorkerContext

SECONDS_PER_STEP = 0.001
"""What `fast_timer` says of any step: every width fits."""


def fast_timer(config: TrialConfig) -> float:
    """Return the same step time for every network."""
    return SECONDS_PER_STEP


def quality(config: TrialConfig, epoch: int) -> float:
    """Return the Dice that the double reports: it rises with the epoch and the learning rate."""
    return round(min(1.0, 100 * config.optimiser.learning_rate) * epoch / config.epochs, 6)


def fast_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Pretend to train: one report and one checkpoint per epoch, resume, stop, outcome. `runs.txt` logs every start."""
    first = _resumed(context)
    if context.rank == 0:
        context.folder.mkdir(parents=True, exist_ok=True)
        with (context.folder / "runs.txt").open("a") as log:
            log.write(f"{first}\n")
    epochs: list[EpochReport] = [_epoch(config, number) for number in range(1, first + 1)]
    stopped = False
    for number in range(first + 1, config.epochs + 1):
        _pause(context)
        stopped = context.should_stop()
        if stopped:
            break
        epochs.append(_epoch(config, number))
        saved = context.folder / "checkpoint"
        if context.rank == 0:
            write_json(saved / "state.json", {"epoch": number})
        context.report(epochs[-1], saved if context.rank == 0 else None)
    return _finish(config, context, tuple(epochs), stopped)


def failing_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Fail as a U-Net (NaN on the last rank) and work as anything else."""
    if config.architecture == "unet" and context.rank == context.world_size - 1:
        raise TrialFailure("nan_loss", "the loss was NaN at step 3")
    return fast_worker(config, prepared, context)


def dying_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Die once, by SIGKILL, after the second report of the trial's first start."""
    inner, reported = context.report, 0

    def report(epoch: EpochReport, checkpoint: Path | None) -> None:
        nonlocal reported
        inner(epoch, checkpoint)
        reported += 1
        if reported == 3 and _resumed(context) == 3 and not (context.folder / "died").exists():
            (context.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return fast_worker(config, prepared, replace(context, report=report))


def slow_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Take 1.5 s per epoch: a trial outlives by far the 3 s that workers live on after their driver was killed."""
    inner = context.report

    def report(epoch: EpochReport, checkpoint: Path | None) -> None:
        inner(epoch, checkpoint)
        time.sleep(1.5)

    return fast_worker(config, prepared, replace(context, report=report))


def gradient_worker(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Take one step of a wrapped layer on data that differ by rank, and write each rank's gradient and metrics."""
    import torch

    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    wrapped = context.wrap(model)
    wrapped(torch.full((1, 2), float(context.rank + 1))).sum().backward()
    gradient: Any = model.weight.grad
    context.folder.mkdir(parents=True, exist_ok=True)
    write_json(context.folder / f"gradient{context.rank}.json", gradient.flatten().tolist())
    return fast_worker(config, prepared, context)


def _resumed(context: WorkerContext) -> int:
    state = context.folder / "checkpoint" / "state.json"
    return int(read_json(state)["epoch"]) if state.exists() else 0


def _pause(context: WorkerContext) -> None:
    time.sleep(0.01)


def _epoch(config: TrialConfig, number: int) -> EpochReport:
    return EpochReport(
        epoch=number,
        step=number * 10,
        progress=100 * number // config.epochs,
        seconds=0.01 * number,
        metrics={"validation_dice": quality(config, number), "train_loss": 1.0 / number},
    )


def _finish(
    config: TrialConfig, context: WorkerContext, epochs: tuple[EpochReport, ...], stopped: bool
) -> TrialOutcome:
    dice = epochs[-1].metrics["validation_dice"] if epochs else 0.0
    main = VariantScore(variant="main", dice=dice, dice_per_class={"organ": dice}, cases=2, seconds_per_case=0.1)
    outcome = TrialOutcome(
        trial_id=context.trial_id,
        config=config.resolved(10 * config.epochs),
        state="stopped" if stopped else "finished",
        epochs=epochs,
        variants=(main, replace(main, variant="other", dice=dice / 2)),
        parameters=2,
        seconds=0.01 * len(epochs),
        workers=context.world_size,
        weights="weights.safetensors",
    )
    if context.rank == 0:
        (context.folder / "weights.safetensors").write_bytes(b"weights")
        outcome.save(context.folder / "outcome.json")
    return outcome
