"""What `overread ensemble` is told reaches the selection."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from overread.cli import main
from overread.data.prepare import serial_map
from overread.errors import UserError
from overread.pipeline import selecting, stages


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--select", "greedy"], {"per_class": False, "out_of_fold": False, "budget": None, "cost": "ms"}),
        (["--select", "greedy-per-class", "--out-of-fold"], {"per_class": True, "out_of_fold": True}),
        (["--select", "greedy", "--cost", "parameters", "--budget", "9"], {"budget": 9.0, "cost": "parameters"}),
    ],
)
def test_how_members_are_selected(
    given: list[str],
    expected: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, object] = {}

    def select(*_: object, **options: object) -> None:
        told.update(options)
        raise UserError("enough")

    module = importlib.import_module("overread.cli.ensemble")
    monkeypatch.setattr(module, "working", lambda *_, **__: nullcontext(serial_map))
    monkeypatch.setattr(selecting, "select", select)
    monkeypatch.setattr(stages, "open_run", lambda *_: None)
    with pytest.raises(SystemExit):
        main(["ensemble", "--out", str(tmp_path), "--top", "3", *given])
    assert {name: told[name] for name in expected} == expected
    assert told["most"] == 3
