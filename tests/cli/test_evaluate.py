"""What `overread evaluate` and `overread report` are told reaches figures and page."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from overread.cli import main
from overread.ensemble.evaluate import Measures
from overread.errors import UserError
from overread.pipeline import prediction, run


def test_the_threshold_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float | None] = []
    asked: list[Measures] = []

    def rewrite(folder: Path, _: object, failure_dice: float | None) -> Path:
        told.append(failure_dice)
        return folder

    def evaluate(_: Path, __: object, *, failure_dice: float, measures: Measures) -> None:
        told.append(failure_dice)
        asked.append(measures)
        raise UserError("enough")

    monkeypatch.setattr(prediction, "rewrite_report", rewrite)
    monkeypatch.setattr(run, "evaluate_run", evaluate)
    module = importlib.import_module("overread.cli.evaluate")
    monkeypatch.setattr(module, "working", lambda *_, **__: nullcontext(None))
    for command in ("report", "evaluate"):
        for given in ([], ["--failure-dice", "0.8"], ["--failure-dice", "1.5"]):
            with pytest.raises(SystemExit):
                main([command, "--out", str(tmp_path), *given])
    assert asked == [Measures()] * 2  # the usual overlap metrics
    for wrong in (["--metrics", "nsd,hd"], ["--tolerance", "-1"]):  # refused before a case is read
        with pytest.raises(SystemExit):
            main(["evaluate", "--out", str(tmp_path), *wrong])
    with pytest.raises(SystemExit):
        main(["evaluate", "--out", str(tmp_path), "--metrics", "nsd,hd95", "--tolerance", "2.5"])
    assert asked[2:] == [Measures(metrics=("nsd", "hd95"), tolerance=2.5)]
    # nothing given: the report keeps what was evaluated, the evaluation takes 0.7; above 1 is refused
    assert told == [None, 0.8, 0.7, 0.8, 0.7]
