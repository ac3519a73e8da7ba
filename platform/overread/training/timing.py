"""Timed optimiser steps: they choose the precision and turn a time budget into a number of steps."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from overread.architectures.contract import Segmenter, build_segmenter
from overread.records import Batch, Needs, Prepared, TrialConfig
from overread.training.augment import Share, augment
from overread.training.optimiser import build_optimiser
from overread.training.seeds import generator_for
from overread.training.step import Precision, Step, place_batch

PROBE_SAMPLES = 4
"""Samples on which precisions are compared: enough to fill the kernels, cheap for slow networks."""
GAIN = 0.85
"""Share of the plain time that bf16 must stay below: near ties would differ between equal runs."""


def time_step(
    config: TrialConfig, prepared: Prepared | None, device: torch.device | str, repeats: int = 2, *, world_size: int = 1
) -> float:
    """Return the seconds of one optimiser step of this worker, with augmentation, on synthetic data.

    With `prepared` the loading of a batch is timed and added. The first step is not counted.
    """
    device = torch.device(device)
    share = Share(config.batch_size, 0, world_size)
    segmenter = build_segmenter(config).to(device)
    precision = choose_precision(config, segmenter, device)
    seconds = timed(config, segmenter, precision, share, device, repeats)
    needs = replace(segmenter.needs, extras={})  # stored by the first training that needs them, which is after this
    return seconds + (load_seconds(config, prepared, needs, world_size) if prepared is not None else 0.0)


def choose_precision(config: TrialConfig, segmenter: Segmenter, device: torch.device) -> Precision:
    """Return the precision to train in; the segmenter keeps its weights.

    CUDA: always bf16 and channels-last. CPU: channels-last, and for 2-D networks bf16 where the processor computes in
    it and a timed step shows that it helps. Without mixed precision, or such a processor, nothing is timed: equal seeds
    give equal results.
    """
    plain = Precision(channels_last=True)
    if not config.mixed_precision:
        return plain
    fast = Precision(bf16=True, channels_last=True)
    if device.type == "cuda":
        return fast if torch.cuda.is_bf16_supported(including_emulation=False) else replace(fast, bf16=False)
    # torch 2.13: the bf16 weight gradient of a channels-last Conv3d is wrong or NaN where a map is two voxels deep
    if config.spatial_dims == 3 or not cpu_has_bf16():
        return plain
    share = Share(min(config.batch_size, PROBE_SAMPLES))
    usual, hoped = (timed(config, segmenter, candidate, share, device, repeats=1) for candidate in (plain, fast))
    return fast if hoped < GAIN * usual else plain


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; emulated it is about eight times slower than float32."""
    # private names of torch 2.13 (the lock): without them float32 is used
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def timed(
    config: TrialConfig, segmenter: Segmenter, precision: Precision, share: Share, device: torch.device, repeats: int
) -> float:
    """Return the mean seconds of one step on random data, after one uncounted step; weights are put back."""
    state = {name: value.clone() for name, value in segmenter.state_dict().items()}
    training = segmenter.training
    model = precision.place(segmenter, config.spatial_dims).train()
    optimiser = build_optimiser(model, config.optimiser)
    step = Step(model, segmenter.parts(), optimiser, precision, share, config.optimiser.gradient_clip)
    batch = synthetic_batch(config, segmenter.needs, share.local).to(device)
    started = 0.0
    with torch.random.fork_rng(devices=[]):
        for repeat in range(repeats + 1):
            step(place_batch(augment(batch, config.augment, seed=config.seed, step=repeat, share=share), precision))
            _wait(device)
            if repeat == 0:
                started = time.perf_counter()
    seconds = (time.perf_counter() - started) / repeats
    optimiser.zero_grad(set_to_none=True)
    segmenter.load_state_dict(state)
    segmenter.train(training)
    return seconds


def synthetic_batch(config: TrialConfig, needs: Needs, samples: int, *, partner: bool | None = None) -> Batch:
    """Return random images and labels of the trial's shape, with all that the network needs."""
    generator, size = generator_for(config.seed), config.patch_size
    multiple = needs.size_multiple
    size = tuple(-(-side // multiple) * multiple for side in size)

    def noise(channels: int) -> Tensor:
        return torch.randn((samples, channels, *size), generator=generator)

    annotators = 2 if needs.annotators else 1
    labels = torch.randint(0, config.classes, (samples, annotators, *size), generator=generator, dtype=torch.uint8)
    with_partner = needs.pairs if partner is None else partner
    return Batch(
        images=noise(config.in_channels),
        labels=labels,
        valid=torch.ones((samples, annotators), dtype=torch.bool),
        extras={name: noise(extra.channels) for name, extra in needs.extras.items()},
        partner=synthetic_batch(config, needs, samples, partner=False) if with_partner else None,
        instances=labels[:, 0].int() if needs.instances else None,
    )


def load_seconds(config: TrialConfig, prepared: Prepared, needs: Needs, world_size: int = 1, rank: int = 0) -> float:
    """Return the seconds that loading one batch takes, after one uncounted."""
    from overread.data.batches import BatchSource

    train = prepared.splits.fold(config.fold).train
    source = BatchSource(prepared, train, config, needs, rank, world_size)
    steps = iter(source.steps(3, 0))
    next(steps)
    started = time.perf_counter()
    loaded = sum(1 for _ in steps)
    return (time.perf_counter() - started) / max(loaded, 1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
