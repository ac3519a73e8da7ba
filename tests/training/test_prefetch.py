from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from overread.training.prefetch import prefetched

CUDA = torch.device("cuda")  # only named: batches are loaded on the CPU


def numbers(count: int, fail: bool = False) -> Iterator[Any]:
    yield from range(count)
    if fail:
        raise ValueError("broken file")


def loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_order_is_kept(device: torch.device) -> None:
    assert list(prefetched(numbers(20), device)) == list(range(20))


def test_error_of_the_loader_is_raised_after_its_batches() -> None:
    seen = []
    with pytest.raises(ValueError, match="broken file"):
        for number in prefetched(numbers(2, fail=True), CUDA):
            seen.append(number)
    assert seen == [0, 1]
    assert loaders() == []


def test_thread_ends_when_the_consumer_leaves_early() -> None:
    batches = prefetched(numbers(1000), CUDA)
    assert next(batches) == 0
    assert loaders() == ["batches"]
    batches.close()  # type: ignore[attr-defined]
    assert loaders() == []
