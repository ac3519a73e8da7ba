"""The demo's data set is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.pipeline import demo
from overread.pipeline.demo import demo_phantom


def test_an_interrupted_generation_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(root: Path, settings: object) -> Path:
        (root / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_phantom", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo_phantom(tmp_path, cases=2, seed=0)
    assert list((tmp_path / "phantoms").iterdir()) == []
    root = demo_phantom(tmp_path, cases=2, seed=0)
    (root / "difficulty.csv").unlink()  # what an earlier version left when it was killed
    (root / "left.txt").touch()
    assert demo_phantom(tmp_path, cases=2, seed=0) == root
    assert (root / "difficulty.csv").is_file() and not (root / "left.txt").exists()
    assert len(list((root / "images").iterdir())) == 2
    before = (root / "difficulty.csv").stat().st_mtime_ns
    assert demo_phantom(tmp_path, cases=2, seed=0) == root
    assert (root / "difficulty.csv").stat().st_mtime_ns == before
