"""What `overread bench failure` is told reaches its tables."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from overread.cli import main
from overread.errors import UserError
from overread.reproduction import program
from overread.reproduction.program import ReproductionSettings


@pytest.mark.parametrize(("given", "expected"), [([], None), (["--failure-dice", "0.8"], 0.8)])
def test_the_threshold_of_a_failure(
    given: list[str], expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ReproductionSettings] = []

    def reproduce(settings: ReproductionSettings, _: object) -> None:
        told.append(settings)
        raise UserError("enough")

    # the commands of this package hide its modules
    monkeypatch.setattr(
        importlib.import_module("overread.cli.reproduce"), "working", lambda *_, **__: nullcontext(None)
    )
    monkeypatch.setattr(program, "reproduce", reproduce)
    with pytest.raises(SystemExit):
        main(["bench", "failure", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--rows", "none", *given])
    (settings,) = told
    assert (settings.paper, settings.rows, settings.failure_dice) == ("failure", ("none",), expected)
