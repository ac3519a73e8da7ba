"""One trial on one worker, from its config to its outcome: the function that every launcher runs.

Rank 0 alone writes files: `checkpoint/`, `weights.safetensors` (of the epoch that `config.keep` names), `progress.json`
(the outcome if the trial were stopped now), `overlays.png` and last `outcome.json`. The last epoch is reported after
`outcome.json` is written, because a scheduler may end the trial at that report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from overread.architectures.contract import Segmenter, build_segmenter, count_parameters
from overread.data.batches import BatchSource, largest_sides
from overread.errors import TrialFailure, UserError
from overread.records import EpochReport, Needs, Prepared, TrialConfig, TrialOutcome, TrialState, VariantScore
from overread.training import checkpoint, timing
from overread.training.augment import Share
from overread.training.checkpoint import Progress
from overread.training.collective import any_over_ranks, max_over_ranks
from overread.training.evaluate import Workers, score_variant
from overread.training.extras import ensure_extras
from overread.training.failures import named_failures
from overread.training.loop import Run, keep_pace, train_epoch, validate
from overread.training.optimiser import build_optimiser
from overread.training.overlays import write_overlays
from overread.training.pretrained import load_pretrained
from overread.training.seen import check_unseen
from overread.training.step import Step

WEIGHTS = "weights.safetensors"
OUTCOME = "outcome.json"
PROGRESS = "progress.json"
CHECKPOINT = "checkpoint"
OUT_OF_TIME = "its time was up"


def _alone(model: nn.Module) -> nn.Module:
    return model


def _never() -> bool:
    return False


@dataclass(kw_only=True)
class WorkerContext:
    """What a launcher (a notebook, a Tune trial, a Ray Train worker) gives a worker."""

    trial_id: str
    folder: Path
    """The trial's folder, shared by all workers."""
    rank: int = 0
    world_size: int = 1
    device: torch.device
    threads: int
    """CPU threads of this worker."""
    report: Callable[[EpochReport, Path | None], None] = lambda report, saved: None
    """Called on all ranks after each validation; the path is the checkpoint's folder on rank 0 and None elsewhere."""
    resume: Path | None = None
    """Checkpoint folder to go on from."""
    wrap: Callable[[nn.Module], nn.Module] = _alone
    """Distributed data parallel, or nothing."""
    should_stop: Callable[[], bool] = _never
    """Whether the time is up."""


def train_trial(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> TrialOutcome:
    """Train, validate and evaluate one trial; the outcome is the same on every rank.

    Raises `TrialFailure` (nan_loss, out_of_memory), after writing an outcome with state `failed`.
    """
    torch.set_num_threads(context.threads)
    devices = [context.device] if context.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), named_failures():
            run = start(config, prepared, context)
            return _train(run, context)
    except TrialFailure as failure:
        if context.rank == 0:
            outcome = TrialOutcome(
                trial_id=context.trial_id,
                config=config,
                state="failed",
                reason=str(failure),
                workers=context.world_size,
            )
            outcome.save(context.folder / OUTCOME)
        raise


def start(config: TrialConfig, prepared: Prepared, context: WorkerContext) -> Run:
    """Build everything a worker needs, resolve the number of steps, and restore a checkpoint."""
    check_fits(config, prepared)
    share = Share(config.batch_size, context.rank, context.world_size)
    segmenter = load_pretrained(build_segmenter(config)).to(context.device)
    fold = prepared.splits.fold(config.fold)
    if segmenter.needs.extras:
        _share_extras(segmenter, prepared, (*fold.train, *fold.validation), context)
    source = BatchSource(prepared, fold.train, config, segmenter.needs, context.rank, context.world_size)
    if context.resume is not None:
        progress, weights, state = checkpoint.load(context.resume, config, context.device)
    else:
        progress, weights, state = _fresh(config, prepared, context, segmenter, share), None, None
    precision, config = progress.precision, progress.config
    precision.place(segmenter, config.spatial_dims)
    optimiser = build_optimiser(segmenter, config.optimiser)
    if weights is not None and state is not None:
        segmenter.load_state_dict(weights)
        optimiser.load_state_dict(state)
        if any_over_ranks(not (context.folder / WEIGHTS).is_file(), context.device):
            if config.keep == "best":
                progress.best_dice = -1.0  # the best weights are lost: those of the checkpoint stand in until the next
            if context.rank == 0:
                checkpoint.save_weights(context.folder / WEIGHTS, segmenter)
    clip = config.optimiser.gradient_clip
    step = Step(context.wrap(segmenter), segmenter.parts(), optimiser, precision, share, clip)
    workers = Workers(context.rank, context.world_size, context.device)
    return Run(prepared, segmenter, step, source, progress, workers, context.should_stop)


def _share_extras(segmenter: Segmenter, prepared: Prepared, case_ids: Sequence[str], context: WorkerContext) -> None:
    """Let each worker compute its share of the missing extras, and wait until all are stored."""
    ensure_extras(segmenter, prepared, case_ids[context.rank :: context.world_size])
    any_over_ranks(False, context.device)


def check_fits(config: TrialConfig, prepared: Prepared) -> None:
    """Raise `UserError` unless the data have what a training needs: its channels, classes, axes and instances.

    Weights that the config names, such as an attention teacher's, must not have seen the cases that it holds out.
    """
    channels = len(prepared.preprocessing.channels)
    if (config.in_channels, config.classes) != (channels, prepared.classes):
        raise UserError(
            f"a config must have the data's {channels} channels and {prepared.classes} classes, but it has "
            f"{config.in_channels} and {config.classes}: make it for data set '{prepared.dataset}'"
        )
    if config.spatial_dims > prepared.preprocessing.spatial_dims:
        raise UserError(
            f"3-D training must have volumes, but data set '{prepared.dataset}' holds images: use spatial_dims 2"
        )
    with torch.device("meta"):
        segmenter = build_segmenter(config)
    needs = segmenter.needs
    for named in segmenter.pretrained():
        check_unseen(Path(named.path), prepared, config.fold)
    longest = max(largest_sides(prepared, config.spatial_dims))
    if needs.size_multiple > 2 * longest:
        raise UserError(
            f"images must be at least half as large as the multiple of {needs.size_multiple} that "
            f"{config.architecture} needs, but the longest side is {longest}: "
            "use smaller scales, fewer pools or levels, or a larger --size"
        )
    if small := too_small(needs, prepared):
        raise UserError(f"{config.architecture} {small}: use smaller patches or a larger --size")
    without = [case.id for case in prepared.cases if needs.instances and not case.instances]
    if without:
        raise UserError(
            f"{config.architecture} must have instances of every case, but {len(without)} of {len(prepared.cases)} in "
            f"data set '{prepared.dataset}' have none (such as {without[0]}): add instances/ or choose another network"
        )


def too_small(needs: Needs, prepared: Prepared) -> str | None:
    """Return what images have a side below the least that a network needs, or None."""
    small = [case for case in prepared.cases if min(case.shape[1:]) < needs.least_side]
    if not small:
        return None
    return (
        f"must have images of at least one patch, {needs.least_side} pixels, on each side, but {len(small)} of "
        f"{len(prepared.cases)} in data set '{prepared.dataset}' are smaller ({small[0].id}: {small[0].shape[1:]})"
    )


def _fresh(
    config: TrialConfig, prepared: Prepared, context: WorkerContext, segmenter: Segmenter, share: Share
) -> Progress:
    """Choose precision and steps by timed steps; the slowest worker and rank 0's precision decide for all."""
    device = context.device
    precision = timing.choose_precision(config, segmenter, device)
    precision = replace(precision, bf16=any_over_ranks(precision.bf16 and context.rank == 0, device))
    if config.train_seconds is not None:
        seconds = timing.timed(config, segmenter, precision, share, device, repeats=3)
        seconds += timing.load_seconds(config, prepared, segmenter.needs, context.world_size, context.rank)
        steps = max(1, round(config.train_seconds / max_over_ranks(seconds, device)))
        return Progress(config.resolved(steps), precision, budget_seconds=config.train_seconds)
    return Progress(config, precision)


def _train(run: Run, context: WorkerContext) -> TrialOutcome:
    """Train the epochs that are left; the outcome is written before the last report."""
    stopped = False
    while not run.finished and not stopped:
        losses = train_epoch(run)
        if losses is None:  # the steps since the last report are given up
            return _finish(run, context, OUT_OF_TIME)
        keep_pace(run)
        report, score = validate(run, losses)
        stopped = any_over_ranks(run.should_stop(), run.workers.device)
        _keep(run, context, score)
        if not run.finished and not stopped:
            context.report(report, _saved(context))
    outcome = _finish(run, context, "" if run.finished else OUT_OF_TIME)
    context.report(run.progress.reports[-1], _saved(context))  # also when nothing was left to train after a resume
    return outcome


def _saved(context: WorkerContext) -> Path | None:
    return context.folder / CHECKPOINT if context.rank == 0 else None


def _keep(run: Run, context: WorkerContext, score: VariantScore | None) -> None:
    """Write the weights if they are to be kept, the checkpoint, and the outcome as it stands (rank 0)."""
    if context.rank != 0:
        return
    progress, folder = run.progress, context.folder
    kept = run.config.keep == "last" or progress.best_epoch == progress.epoch
    if kept:
        checkpoint.save_weights(folder / WEIGHTS, run.segmenter)
    checkpoint.save(folder / CHECKPOINT, progress, run.segmenter, run.step.optimiser)
    scores = () if score is None else (score,)
    variants = scores if kept else TrialOutcome.load(folder / PROGRESS).variants
    _outcome(run, context, variants, "stopped early").save(folder / PROGRESS)


def _finish(run: Run, context: WorkerContext, reason: str) -> TrialOutcome:
    """Evaluate every variant of the kept weights over all validation cases, if any, and write the outcome.

    A trial that was killed after its outcome was written gets the same outcome again.
    """
    folder = context.folder
    # all ranks decide alike before rank 0 writes; the reduction below also waits for its weights to be there
    if not any_over_ranks(not _complete(run, folder / OUTCOME), run.workers.device):
        return TrialOutcome.load(folder / OUTCOME)
    checkpoint.load_weights(folder / WEIGHTS, run.segmenter)
    cases = run.prepared.splits.fold(run.config.fold).validation
    variants = tuple(
        score_variant(run.segmenter, run.prepared, cases, run.config, variant, run.workers)
        for variant in run.segmenter.variants()
        if cases
    )
    outcome = _outcome(run, context, variants, reason)
    if context.rank == 0:
        if variants:
            write_overlays(
                folder / "overlays.png", run.segmenter, run.prepared, run.config, variants[0], run.workers.device
            )
        outcome.save(folder / OUTCOME)
    return outcome


def _complete(run: Run, path: Path) -> bool:
    """Return whether this very training already has its outcome."""
    if not path.is_file():
        return False
    outcome = TrialOutcome.load(path)
    return outcome.state != "failed" and outcome.config == run.config and outcome.epochs == tuple(run.progress.reports)


def _outcome(run: Run, context: WorkerContext, variants: tuple[VariantScore, ...], reason: str) -> TrialOutcome:
    state: TrialState = "stopped" if reason else "finished"
    return TrialOutcome(
        trial_id=context.trial_id,
        config=run.config,
        state=state,
        reason=reason,
        epochs=tuple(run.progress.reports),
        variants=variants,
        parameters=count_parameters(run.segmenter),
        seconds=run.progress.seconds,
        workers=context.world_size,
        weights=WEIGHTS,
    )
