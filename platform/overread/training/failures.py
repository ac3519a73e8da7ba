"""Names for the ways in which a training ends early: a `TrialFailure` ends its trial, never the search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from overread.errors import TrialFailure

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
"""How CUDA, the CPU allocator, oneDNN and the operating system say it."""


@contextmanager
def named_failures() -> Iterator[None]:
    """Turn errors for lack of memory into `TrialFailure("out_of_memory")`; all others pass."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(error) from error
    except (RuntimeError, OSError) as error:
        if any(words in str(error).lower() for words in MEMORY_WORDS):
            raise _out_of_memory(error) from error
        raise


def _out_of_memory(error: BaseException) -> TrialFailure:
    lines = str(error).splitlines() or [type(error).__name__]
    return TrialFailure("out_of_memory", f"{lines[0]}: use a smaller batch_size, patch_size or width")
