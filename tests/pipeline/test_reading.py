"""A process keeps a package between cases, and not beyond its manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.ensemble import package as packages
from overread.errors import UserError
from overread.pipeline.reading import _package
from overread.pipeline.stages import Run, assemble


def test_a_package_written_anew_in_its_place_is_read_anew(two_networks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []
    load = packages.load_package
    monkeypatch.setattr(packages, "load_package", lambda folder: (loads.append(folder), load(folder))[1])
    assemble(two_networks, top=2)
    path = str(two_networks.folder.ensemble)
    first = _package(path)
    assert _package(path) is first
    assert len(loads) == 1
    # the same members with other votes: the same files of weights, another manifest
    assemble(two_networks, top=2, votes={("t0", "main"): 1.0, ("t1", "main"): 4.0})
    again = _package(path)
    assert [member.weight for member in again.manifest.members] == [0.25, 1.0]
    assert [member.weight for member in first.manifest.members] == [1.0, 1.0]
    assert len(loads) == 2
    guests = _package(path, ("person",))
    assert [member.name for member in guests.manifest.imported] == ["person"]
    assert _package(path) is again


def test_a_folder_without_a_package_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json must exist"):
        _package(str(tmp_path))
