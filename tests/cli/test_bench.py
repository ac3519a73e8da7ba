"""What the benchmarks are told reaches their programs."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from overread.cli import main
from overread.errors import UserError
from overread.pipeline import objectives as pipeline_objectives
from overread.pipeline.objectives import BenchSettings
from overread.reproduction import program
from overread.reproduction.program import ReproductionSettings


def test_what_the_benchmark_of_objectives_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[BenchSettings, tuple[str, ...]]] = []

    def compare(out: Path, settings: BenchSettings, _: object, *, objectives: tuple[str, ...], **__: object) -> None:
        told.append((settings, objectives))
        raise UserError("enough")

    monkeypatch.setattr(importlib.import_module("overread.cli.bench"), "working", lambda *_, **__: nullcontext(None))
    monkeypatch.setattr(pipeline_objectives, "compare_objectives", compare)
    call = ["bench", "objective", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "3"]
    for more in ([], ["--time-budget", "2m", "--objective", "gain", "--size", "32", "--trial-steps", "9"]):
        with pytest.raises(SystemExit):
            main([*call, *more])
    (first, every), (second, one) = told
    assert (first.search.trials, first.search.seconds_per_trial, first.search.time_budget_s) == (30, 15.0, None)
    assert (first.prepare.max_side, first.prepare.seed, first.search.seed) == (64, 3, 3)
    assert (second.search.trials, second.search.time_budget_s, second.prepare.max_side) == (None, 120.0, 32)
    assert (first.search.steps, second.search.steps) == (None, 9)
    assert every == ("dice", "gain", "gain_and_failure") and one == ("gain",)


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
