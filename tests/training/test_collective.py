"""Two real gloo processes against one. The functions at the top run in the processes, so they must be importable."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from overread.architectures.contract import build_segmenter
from overread.errors import TrialFailure
from overread.records import AugmentConfig, Needs, OptimiserConfig, Prepared, TrialConfig, TrialOutcome
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.training.augment import Share
from overread.training.collective import any_over_ranks, max_over_ranks, sum_over_ranks
from overread.training.optimiser import build_optimiser
from overread.training.step import Precision, Step
from overread.training.timing import synthetic_batch
from overread.training.worker import WorkerContext, train_trial

CPU = torch.device("cpu")
FROZEN = tiny_config(
    options={"frozen_norm": True, "parts": 3},
    batch_size=5,  # three samples on rank 0, two on rank 1
    steps=24,
    epochs=3,
    augment=AugmentConfig(),
    optimiser=OptimiserConfig(name="sgd", learning_rate=0.2, schedule="cosine"),
)
LIVE = replace(FROZEN, options={"parts": 2})


def trial(config: TrialConfig, prepared: Prepared, folder: Path, rank: int = 0, world_size: int = 1) -> TrialOutcome:
    wrap = nn.parallel.DistributedDataParallel if world_size > 1 else _alone
    context = WorkerContext(
        trial_id="t", folder=folder, rank=rank, world_size=world_size, device=CPU, threads=1, wrap=wrap
    )
    return train_trial(config, prepared, context)


def _alone(model: nn.Module) -> nn.Module:
    return model


def gradients(config: TrialConfig, rank: int, world_size: int) -> list[torch.Tensor]:
    """Return the gradients of this worker's share of one batch."""
    segmenter = build_segmenter(config).train()
    model = _alone(segmenter) if world_size == 1 else nn.parallel.DistributedDataParallel(segmenter)
    share = Share(config.batch_size, rank, world_size)
    step = Step(model, segmenter.parts(), build_optimiser(segmenter, config.optimiser), Precision(), share)
    batch = synthetic_batch(config, Needs(), config.batch_size)
    batch.images, batch.labels, batch.valid = (share.take(x) for x in (batch.images, batch.labels, batch.valid))
    step.backward(batch)
    return [p.grad.clone() for p in segmenter.parameters() if p.grad is not None]


def process(rank: int, folder: Path, prepared: Prepared) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result: dict[str, Any] = {
        "sum": sum_over_ranks(torch.tensor([1.0 + rank, float("nan") if rank else 0.0]), CPU).tolist(),
        "max": max_over_ranks(float(rank), CPU),
        "any": [any_over_ranks(rank == 1, CPU), any_over_ranks(False, CPU)],
    }
    with tiny_architecture():
        result["frozen"], result["live"] = gradients(FROZEN, rank, 2), gradients(LIVE, rank, 2)
        result["outcome"] = trial(FROZEN, prepared, folder / "frozen", rank, 2).to_json()
        result["live_outcome"] = trial(LIVE, prepared, folder / "live", rank, 2).to_json()
        failing = {"frozen_norm": True, "fail": "nan" if rank else ""}  # the loss is NaN on rank 1 only
        try:
            trial(replace(FROZEN, options=failing), prepared, folder / "nan", rank, 2)
        except TrialFailure as failure:
            result["failure"] = failure.kind
    torch.save(result, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("pair")
    prepared = tiny_prepared(folder / "prepared", cases=11)  # three validation cases: two and one
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=process, args=(rank, folder, prepared)) for rank in (0, 1)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
        if one.is_alive():
            one.kill()
    assert [one.exitcode for one in processes] == [0, 0]
    return folder, prepared, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


Pair = tuple[Path, Prepared, list[dict[str, Any]]]


def test_reductions(pair: Pair) -> None:
    for result in pair[2]:
        assert result["sum"][0] == 3.0
        assert result["sum"][1] != result["sum"][1]  # NaN
        assert result["max"] == 1.0
        assert result["any"] == [True, False]


def test_gradients_are_equal_on_both_ranks_and_those_of_one_worker(pair: Pair) -> None:
    first, second = (result["frozen"] for result in pair[2])
    alone = gradients(FROZEN, 0, 1)
    assert len(first) == len(alone) == 6
    for a, b, want in zip(first, second, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(a, want, atol=1e-6)
        assert float(want.abs().max()) > 1e-4


def test_gradients_are_equal_on_both_ranks_with_live_batch_norm(pair: Pair) -> None:
    first, second = (result["live"] for result in pair[2])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_training_of_two_workers_is_that_of_one(pair: Pair, tmp_path: Path) -> None:
    folder, prepared, results = pair
    one = trial(FROZEN, prepared, tmp_path)
    two = [TrialOutcome.from_json(result["outcome"]) for result in results]
    assert two[0].workers == 2
    for outcome in two:
        assert set(outcome.variants[0].case_dice) == set(one.variants[0].case_dice) == {"case0", "case1", "case2"}
        for mine, theirs in zip(outcome.epochs, one.epochs, strict=True):
            assert mine.metrics == pytest.approx(theirs.metrics, abs=2e-3)
    assert [e.metrics for e in two[0].epochs] == [e.metrics for e in two[1].epochs]
    assert one.epochs[-1].metrics["train_loss"] < 0.8 * one.epochs[0].metrics["train_loss"]
    assert TrialOutcome.load(folder / "frozen" / "outcome.json") == two[0]


def test_running_statistics_are_averaged_so_ranks_validate_alike(pair: Pair) -> None:
    first, second = (TrialOutcome.from_json(result["live_outcome"]) for result in pair[2])
    assert [e.metrics for e in first.epochs] == [e.metrics for e in second.epochs]
    assert first.variants[0].case_dice == second.variants[0].case_dice


def test_nan_on_one_rank_ends_both(pair: Pair) -> None:
    assert [result["failure"] for result in pair[2]] == ["nan_loss", "nan_loss"]
    assert TrialOutcome.load(pair[0] / "nan" / "outcome.json").state == "failed"


def test_alone_nothing_is_reduced() -> None:
    assert sum_over_ranks(torch.tensor([2.0]), CPU).tolist() == [2.0]
    assert max_over_ranks(0.5, CPU) == 0.5
    assert any_over_ranks(True, CPU)
    assert not any_over_ranks(False, CPU)
