from __future__ import annotations

import pytest
import torch

from overread.architectures.contract import build_segmenter
from overread.records import Batch, OptimiserConfig
from overread.testing.tiny import tiny_config
from overread.training.augment import Share
from overread.training.optimiser import build_optimiser
from overread.training.step import Precision, Step, place_batch
from overread.training.timing import synthetic_batch


def gradients(step: Step, batch: Batch) -> list[torch.Tensor]:
    step.optimiser.zero_grad()
    step.backward(batch)
    return [p.grad.clone() for p in step.model.parameters() if p.grad is not None]


def step_of(share: Share, precision: Precision | None = None, **options: object) -> Step:
    segmenter = build_segmenter(tiny_config(options={"frozen_norm": True} | options)).train()
    optimiser = build_optimiser(segmenter, OptimiserConfig())
    return Step(segmenter, segmenter.parts(), optimiser, precision or Precision(), share, 1.0)


def rows(batch: Batch, rank: int) -> Batch:
    return Batch(images=batch.images[rank::2], labels=batch.labels[rank::2], valid=batch.valid[rank::2])


def test_shares_of_unequal_size_average_to_the_gradient_of_the_whole_batch() -> None:
    whole = step_of(Share(5))
    batch = synthetic_batch(tiny_config(batch_size=5), whole.model.needs, 5)  # type: ignore[arg-type]
    expected = gradients(whole, batch)
    each = [gradients(step_of(Share(5, rank, 2)), rows(batch, rank)) for rank in (0, 1)]
    for want, first, second in zip(expected, *each, strict=True):
        assert torch.allclose((first + second) / 2, want, atol=1e-6)  # the mean is what DDP takes
        assert float(want.abs().max()) > 1e-4


def test_parts_add_up() -> None:
    one, three = step_of(Share(4)), step_of(Share(4), parts=3)
    batch = synthetic_batch(tiny_config(), one.model.needs, 4)  # type: ignore[arg-type]
    for a, b in zip(gradients(one, batch), gradients(three, batch), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert float(one.backward(batch)["loss"]) == pytest.approx(float(three.backward(batch)["loss"]), abs=1e-6)


def test_gradient_is_clipped_to_its_norm() -> None:
    step = Step(*vars(step_of(Share(4))).values())
    step = Step(step.model, 1, step.optimiser, step.precision, step.share, gradient_clip=1e-3)
    step(synthetic_batch(tiny_config(), step.model.needs, 4))  # type: ignore[arg-type]
    norm = torch.stack([p.grad.norm() for p in step.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def test_precisions_give_nearly_the_same_gradient() -> None:
    plain = step_of(Share(4))
    batch = synthetic_batch(tiny_config(), plain.model.needs, 4)  # type: ignore[arg-type]
    precision = Precision(bf16=True, channels_last=True)
    fast = step_of(Share(4), precision)
    precision.place(fast.model, 2)
    placed = place_batch(batch, precision)
    assert placed.images.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(gradients(plain, batch), gradients(fast, placed), strict=True):
        assert b.dtype == torch.float32
        assert torch.allclose(a, b, atol=2e-2)
