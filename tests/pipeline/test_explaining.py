"""Where the networks of a package look in one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from overread.cli import main
from overread.ensemble.package import load_package
from overread.errors import UserError
from overread.pipeline import explaining
from overread.pipeline.explaining import explain
from overread.pipeline.stages import Run, assemble
from overread.review.figures import Pictured


def test_a_row_for_each_network(
    two_networks: Run, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assemble(two_networks, top=2)
    package, images = two_networks.folder.ensemble, squares / "images"
    drawn: list[list[list[Pictured]]] = []
    write = explaining.pictured
    monkeypatch.setattr(explaining, "pictured", lambda path, rows: (drawn.append(rows), write(path, rows))[1])
    out = tmp_path / "maps.png"
    code = _code(["explain", "--package", str(package), "--images", str(images), "--case", "n03", "--out", str(out)])
    assert (code, out.read_bytes()[:4]) == (0, b"\x89PNG")
    (rows,) = drawn
    assert [len(row) for row in rows] == [4, 4]
    for row in rows:
        assert row[0].heat is None
        assert row[0].image.shape == (8, 8)
        for panel in row[1:]:
            assert panel.heat is not None
            assert panel.heat.shape == (8, 8)
            # an untrained network may find nothing, and its map is empty; else it fills [0, 1]
            assert (panel.heat.min(), panel.heat.max()) in ((0, 0), (0, 1))
    for given, told in (
        ({"members": ["nobody"]}, "members must be networks of the package .*, but got nobody"),
        ({"label": "liver"}, "the class must be one of foreground, but got 'liver'"),
        ({"case_id": "n99"}, "--case must be one of the [0-9]+ images"),
    ):
        arguments = {"case_id": "n03"} | given
        with pytest.raises(UserError, match=told):
            explain(package, images, out=tmp_path / "none.png", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "none.png").exists()


def test_of_a_volume_the_slice_with_most_findings(
    two_networks: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assemble(two_networks, top=1)
    package = load_package(two_networks.folder.ensemble)
    image = np.arange(3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
    foreground = np.zeros((3, 8, 8), np.float32)
    foreground[1, :2], foreground[2, :3] = 1, 1
    found = np.stack([1 - foreground, foreground])
    for read, place in ((found, 2), (found[::-1], 0), (np.stack([np.ones((3, 8, 8)), np.zeros((3, 8, 8))]), 1)):
        monkeypatch.setattr(explaining, "predict_volume", lambda *_, read=read: read)
        row = explaining._row(package, package.manifest.members[0], image, "scan", 1, 2, "cpu")
        assert len(row) == 3
        assert np.array_equal(row[0].image, image[0, place])
    assert "finds nothing in scan" in caplog.text


def _code(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code
