"""The tiny network is registered for every test of this folder; one thread, so that runs are short and equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from overread.records import Prepared
from overread.testing.tiny import tiny_architecture, tiny_prepared


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    torch.set_num_threads(1)
    with tiny_architecture():
        yield


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "prepared")
