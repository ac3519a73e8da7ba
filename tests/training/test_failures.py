from __future__ import annotations

import pytest
import torch

from overread.errors import TrialFailure
from overread.training.failures import named_failures


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_lack_of_memory_is_named(error: Exception) -> None:
    with pytest.raises(TrialFailure) as caught, named_failures():
        raise error
    assert caught.value.kind == "out_of_memory"
    assert "smaller batch_size" in caught.value.message


def test_a_real_failed_allocation_is_named() -> None:
    with pytest.raises(TrialFailure, match="out_of_memory"), named_failures():
        torch.empty(2**58, dtype=torch.uint8)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes"), named_failures():
        raise RuntimeError("shapes cannot be multiplied")
