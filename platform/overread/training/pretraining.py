"""A DINO pretraining on one worker, from its config to the teacher's file: the function that every launcher runs.

Rank 0 alone writes files: `checkpoint/`, `attention/epoch-<n>.png` (what the teacher attends to), `teacher.safetensors`
(the ViT under DINO's own names) and last `pretrain.json`. Data, crops and schedules follow from the step, and a
checkpoint may be of any step: a resumed training ends as the uninterrupted one would. It is written after each epoch
and when time is up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import overread
from overread.architectures.attention_maps import AttentionOptions
from overread.architectures.vit import ViT, as_square, official_name, standardised
from overread.data.hashing import file_sha256
from overread.data.slices import Seen
from overread.errors import TrialFailure, UserError
from overread.jsonio import JsonRecord, write_with
from overread.records import EpochReport, Prepared, PreparedCase
from overread.training.attention_pictures import write_attention
from overread.training.augment import Share
from overread.training.collective import any_over_ranks, max_over_ranks, sum_over_ranks
from overread.training.dino import Dino, Pace, PretrainConfig, collapse
from overread.training.failures import named_failures
from overread.training.multi_crop import multi_crop
from overread.training.pretrained import check_sha256, load_into, read_weights
from overread.training.seeds import derived_seed
from overread.training.seen import RECORD, check_unseen, read_seen
from overread.training.step import Precision
from overread.training.timing import cpu_has_bf16
from overread.training.worker import WorkerContext

TEACHER = "teacher.safetensors"
OUTCOME = RECORD
CHECKPOINT = "checkpoint"
PICTURES = "attention"
FILE = "checkpoint.pt"
VERSION = 2
CHECK_EVERY = 20
"""Most steps between looks at the loss and the clock: each makes the host wait for the device and the workers agree."""
CHECK_SECONDS = 5.0
"""Between looks, where single steps do not take longer."""
SHOWN = 2
"""Images in the attention pictures."""
FIGURES = ("loss", "entropy", "spread", "agreement")
"""What a step gives, in this order."""
logger = logging.getLogger(__name__)


class Images(Protocol):
    """Where images come from: `data.slices.Slices`, or anything like it."""

    content: str
    """Hash of the data."""
    seen: Seen
    """Whose images they are."""

    def __len__(self) -> int: ...

    def load(self, indices: Sequence[int]) -> list[Tensor]:
        """Return images (C, H, W) of any sizes and one number of channels."""


@dataclass(frozen=True, kw_only=True)
class PretrainOutcome(JsonRecord):
    """The end of a pretraining: `pretrain.json`, beside `teacher.safetensors`, written last."""

    config: PretrainConfig
    state: Literal["finished", "stopped"]
    """`stopped`: its time was up; the teacher is that of the last step."""
    epochs: tuple[EpochReport, ...]
    """Metrics: `loss`, `teacher_entropy` and `teacher_spread` (entropy of single and of mean outputs, in nats),
    `agreement` of student and teacher, `collapsed` (0 or 1), `learning_rate`, `momentum`, `teacher_temperature`.
    """
    warning: str = ""
    """That the teacher has collapsed, in words, if it had in the last epoch."""
    images: int
    data: str
    """Hash of the images."""
    dataset: str
    cases: tuple[str, ...]
    """What the teacher has seen: who measures with its maps must hold out others (`training.seen`)."""
    groups: tuple[str, ...] = ()
    """Their groups; none: a pretraining that did not tell yet."""
    marks: tuple[str, ...] = ()
    """Their `mark`s."""
    earlier: tuple[Seen, ...] = ()
    """What the weights had seen that it started from."""
    steps: int
    """That were done."""
    seconds: float
    workers: int
    teacher_sha256: str
    versions: dict[str, str]


@dataclass
class _Progress:
    """Where a pretraining stands, after any step."""

    step: int = 0
    seconds: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(len(FIGURES), dtype=torch.float64))
    """Of the figures over the steps of the epoch that has begun, over all workers."""
    reports: list[EpochReport] = field(default_factory=list)
    warning: str = ""
    earlier: tuple[Seen, ...] = ()
    """What the weights had seen that it started from."""


@dataclass
class _Run:
    config: PretrainConfig
    images: Images
    dino: Dino
    progress: _Progress
    share: Share
    context: WorkerContext

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(len(self.images) / self.config.batch_size))

    @property
    def steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    @property
    def between_epochs(self) -> bool:
        return self.progress.step % self.steps_per_epoch == 0


def pretrain(config: PretrainConfig, images: Images, context: WorkerContext) -> PretrainOutcome:
    """Train a ViT without labels and write its teacher; the outcome is the same on every rank.

    `context.report` gets an `EpochReport` after each epoch, the last one after the outcome is written.

    Raises:
        UserError: Images are too few or too small, or a checkpoint or weights file does not fit.
        TrialFailure: The loss was not finite, or memory is out.

    """
    torch.set_num_threads(context.threads)
    devices = [context.device] if context.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), named_failures():
        torch.manual_seed(config.seed)
        return _train(_start(config, images, context))


def picture(folder: Path, epoch: int) -> Path:
    """Return where the attention pictures of an epoch are."""
    return folder / PICTURES / f"epoch-{epoch:04d}.png"


def saved_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a pretraining's folder holds, or None for a fresh start."""
    return folder / CHECKPOINT if (folder / CHECKPOINT / FILE).is_file() else None


def check_pretraining(config: PretrainConfig, prepared: Prepared, cases: Sequence[PreparedCase]) -> None:
    """Raise `UserError` for images smaller than one patch, or a weights file that the ViT cannot start from."""
    patch = config.vit.patch
    small = [case for case in cases if min(case.shape[1:]) < patch]
    if small:
        raise UserError(
            f"images must be at least one patch, {patch} pixels, on each side, but {len(small)} of {len(cases)} in "
            f"data set '{prepared.dataset}' are smaller ({small[0].id}: {small[0].shape[1:]}): use smaller patches or "
            "a larger --size"
        )
    if config.start is not None:
        load_into(ViT(config.vit), read_weights(Path(config.start)), rename=official_name)


def attention_options(folder: Path, prepared: Prepared | None = None, fold: int = 0) -> AttentionOptions:
    """Return the settings of attention maps by the teacher of a pretraining's folder.

    The file must be what the pretraining left; with `prepared`, the teacher must not have seen what a training on the
    fold holds out (`UserError`). That it collapsed, or was stopped, is said again.
    """
    outcome = PretrainOutcome.load(folder / OUTCOME)
    check_sha256(folder / TEACHER, outcome.teacher_sha256)
    if outcome.state == "stopped":
        logger.warning("teacher %s: its pretraining was stopped after %d steps", folder, outcome.steps)
    if outcome.warning:
        logger.warning("teacher %s: %s", folder, outcome.warning)
    if prepared is not None:
        check_unseen(folder / TEACHER, prepared, fold)
    return AttentionOptions(
        vit=outcome.config.vit,
        image_size=outcome.config.crops.size,
        teacher=str((folder / TEACHER).resolve()),
        teacher_sha256=outcome.teacher_sha256,
    )


def _start(config: PretrainConfig, images: Images, context: WorkerContext) -> _Run:
    if config.batch_size < context.world_size:
        raise UserError(
            f"batch_size must be at least the number of workers, but got {config.batch_size} for "
            f"{context.world_size}: raise it or use fewer workers"
        )
    dino = Dino(config, context.device, context.wrap)
    share = Share(config.batch_size, context.rank, context.world_size)
    run = _Run(config, images, dino, _Progress(), share, context)
    if context.resume is not None:
        _resume(run, context.resume / FILE)
    elif config.start is not None:
        load_into(dino.student.vit, read_weights(Path(config.start)), rename=official_name)
        dino.restart_teacher()
        run.progress.earlier = read_seen(Path(config.start))
    return run


def _train(run: _Run) -> PretrainOutcome:
    context, progress, stopped = run.context, run.progress, False
    while progress.step < run.steps and not stopped:
        stopped = _train_epoch(run)
        if run.between_epochs:
            _note(run)
        saved = _save(run)
        if run.between_epochs and progress.step < run.steps and not stopped:
            context.report(progress.reports[-1], saved)
    outcome = _finish(run)
    if run.between_epochs and progress.reports:  # also when nothing was left to train after a resume
        context.report(progress.reports[-1], context.folder / CHECKPOINT if context.rank == 0 else None)
    return outcome


def _train_epoch(run: _Run) -> bool:
    """Train to the end of the epoch; return whether time is up, which may be before."""
    progress, device = run.progress, run.context.device
    first, started, stop = progress.step, time.perf_counter(), False
    end = (first // run.steps_per_epoch + 1) * run.steps_per_epoch
    sums = torch.zeros(len(FIGURES), dtype=torch.float64, device=device)
    look = first + 1
    while progress.step < end and not stop:
        figures = _step(run)
        sums += torch.stack([figures[name].double() for name in FIGURES])
        progress.step += 1
        if progress.step in (look, end):
            if any_over_ranks(not math.isfinite(float(sums[0])), device):
                raise TrialFailure(
                    "nan_loss", f"the loss was not finite by step {progress.step}: use a lower learning rate"
                )
            stop = any_over_ranks(run.context.should_stop(), device)
            each = max_over_ranks((time.perf_counter() - started) / (progress.step - first), device)
            look += min(max(round(CHECK_SECONDS / max(each, 1e-9)), 1), CHECK_EVERY)
    progress.sums = progress.sums + sum_over_ranks(sums * run.share.local / run.share.size, device)
    progress.seconds += time.perf_counter() - started
    return stop


def _step(run: _Run) -> dict[str, Tensor]:
    config, step, device = run.config, run.progress.step, run.context.device
    slices = run.images.load(_chosen(run, step))
    smallest, patch = min(min(image.shape[1:]) for image in slices), config.vit.patch
    if smallest < patch:
        raise UserError(f"images must be at least one patch, {patch} pixels, on each side, but one has {smallest}")
    images = torch.cat([as_square(standardised(image[None].to(device)), config.crops.size) for image in slices])
    views = multi_crop(images, config.crops, seed=config.seed, step=step, share=run.share)
    bf16 = config.mixed_precision and (device.type == "cuda" or cpu_has_bf16())
    autocast: AbstractContextManager[object] = Precision(bf16=bf16).autocast(device)
    return run.dino.step(views, Pace.at(config, step, run.steps_per_epoch), run.share, autocast)


def _chosen(run: _Run, step: int) -> list[int]:
    """Return the indices of this rank's images at a step: all images in a new random order each pass."""
    indices, count = [], len(run.images)
    for place in range(run.share.rank, run.share.size, run.share.world_size):
        turn, position = divmod(step * run.share.size + place, count)
        indices.append(int(_order(run.config.seed, turn, count)[position]))
    return indices


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> Any:
    return np.random.default_rng(derived_seed(seed, turn)).permutation(count)


def _note(run: _Run) -> None:
    """Add the report of the epoch that has ended."""
    config, progress = run.config, run.progress
    loss, entropy, spread, agreement = (progress.sums / run.steps_per_epoch).tolist()
    progress.sums = torch.zeros_like(progress.sums)
    epoch = progress.step // run.steps_per_epoch
    # the outputs of random weights are even too: before the rate has risen nothing can be said
    risen = epoch > min(config.warm_up_epochs, config.epochs - 1)
    progress.warning = (collapse(entropy, spread, config.outputs) or "") if risen else ""
    if progress.warning and run.context.rank == 0:
        logger.warning("epoch %d: %s", epoch, progress.warning)
    pace = Pace.at(config, progress.step - 1, run.steps_per_epoch)
    report = EpochReport(
        epoch=epoch,
        step=progress.step,
        progress=100 * progress.step // run.steps,
        seconds=progress.seconds,
        metrics={
            "loss": loss,
            "teacher_entropy": entropy,
            "teacher_spread": spread,
            "agreement": agreement,
            "collapsed": float(bool(progress.warning)),
            "learning_rate": pace.learning_rate,
            "momentum": pace.momentum,
            "teacher_temperature": pace.teacher_temperature,
        },
    )
    progress.reports.append(report)


def _save(run: _Run) -> Path | None:
    """Write the checkpoint and the attention pictures; return the checkpoint's folder (rank 0)."""
    if run.context.rank != 0:
        return None
    dino, progress, folder = run.dino, run.progress, run.context.folder
    content = {
        "version": VERSION,
        "config": run.config.to_json(),
        "data": run.images.content,
        "step": progress.step,
        "seconds": progress.seconds,
        "sums": progress.sums,
        "reports": [report.to_json() for report in progress.reports],
        "warning": progress.warning,
        "earlier": [seen.to_json() for seen in progress.earlier],
        "student": dino.student.state_dict(),
        "teacher": dino.teacher.state_dict(),
        "centre": dino.centre,
        "optimiser": dino.optimiser.state_dict(),
    }
    write_with(folder / CHECKPOINT / FILE, lambda path: torch.save(content, path))
    if run.between_epochs:
        places = sorted({round((i + 1) * len(run.images) / (SHOWN + 1)) % len(run.images) for i in range(SHOWN)})
        path = picture(folder, progress.reports[-1].epoch)
        write_attention(path, dino.teacher.vit, run.images.load(places), run.config.crops.size)
    return folder / CHECKPOINT


def _resume(run: _Run, path: Path) -> None:
    """Go on from a checkpoint; one of another config or other images raises `UserError`."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} must exist, but it does not: start without resuming")
    content = torch.load(path, map_location=run.context.device, weights_only=True)
    if (content["version"], content["config"]) != (VERSION, run.config.to_json()):
        raise UserError(f"checkpoint {path} must be of this config, but it is of another: use a new folder")
    if content["data"] != run.images.content:
        raise UserError(f"checkpoint {path} must be of these images, but it is of others: use a new folder")
    run.progress = _Progress(
        step=content["step"],
        seconds=content["seconds"],
        sums=content["sums"].cpu(),
        reports=[EpochReport.from_json(report) for report in content["reports"]],
        warning=content["warning"],
        earlier=tuple(Seen.from_json(seen) for seen in content.get("earlier", ())),
    )
    run.dino.student.load_state_dict(content["student"])
    run.dino.teacher.load_state_dict(content["teacher"])
    run.dino.centre = content["centre"]
    run.dino.optimiser.load_state_dict(content["optimiser"])


def _finish(run: _Run) -> PretrainOutcome:
    """Write the teacher and the outcome (rank 0); every rank returns it."""
    folder, progress, context = run.context.folder, run.progress, run.context
    if context.rank == 0:
        weights = run.dino.teacher.vit.state_dict()
        named = {official_name(name): value.cpu().contiguous() for name, value in weights.items()}
        write_with(folder / TEACHER, lambda path: save_file(named, path))
        outcome = PretrainOutcome(
            config=run.config,
            state="finished" if progress.step == run.steps else "stopped",
            epochs=tuple(progress.reports),
            warning=progress.warning,
            images=len(run.images),
            data=run.images.content,
            dataset=run.images.seen.dataset,
            cases=run.images.seen.cases,
            groups=run.images.seen.groups,
            marks=run.images.seen.marks,
            earlier=progress.earlier,
            steps=progress.step,
            seconds=progress.seconds,
            workers=context.world_size,
            teacher_sha256=file_sha256(folder / TEACHER),
            versions={"overread": overread.__version__, "torch": torch.__version__, "numpy": np.__version__},
        )
        outcome.save(folder / OUTCOME)
    any_over_ranks(False, context.device)  # wait until rank 0 has written
    return PretrainOutcome.load(folder / OUTCOME)
