"""Opening prepared arrays and reading new cases."""

from pathlib import Path

import numpy as np
import pytest

from overread.data.store import CaseArrays, default_cache
from overread.errors import UserError


def test_extra_arrays_are_kept_with_the_case(tmp_path: Path) -> None:
    arrays = CaseArrays(tmp_path)
    arrays.write_extra("attention", np.arange(8.0).reshape(2, 1, 2, 2))
    read = arrays.read_extra("attention")
    assert read.dtype == np.float32 and read[1, 0, 1, 1] == 7
    with pytest.raises(UserError, match="prepare the data set again"):
        _ = arrays.image


def test_opening_many_cases_keeps_no_files_open(tmp_path: Path) -> None:
    arrays = CaseArrays(tmp_path)
    arrays.write_extra("image", np.zeros((1, 1, 2, 2)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        arrays.read_extra("image").sum()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVERREAD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.setenv("OVERREAD_CACHE", "")
    assert default_cache() == Path.home() / ".cache" / "overread"
