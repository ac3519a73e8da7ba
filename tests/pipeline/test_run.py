"""What is left of a budget for the search."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from overread.data.prepare import serial_map
from overread.errors import UserError
from overread.jsonio import write_json
from overread.pipeline import run as module
from overread.pipeline import selecting, stages
from overread.pipeline.folders import RunFolder
from overread.pipeline.run import Clock, RunSettings, _search_settings, run_all, start
from overread.pipeline.summary import EnsembleFigures, RunSummary
from overread.records import PrepareSettings
from overread.search.settings import SearchSettings
from overread.testing.tiny import tiny_prepared


def settings(**search: object) -> RunSettings:
    return RunSettings(
        data=Path("data"),
        out=Path("out"),
        prepare=PrepareSettings(),
        search=SearchSettings(**search),  # type: ignore[arg-type]
    )


def test_later_stages_keep_their_share() -> None:
    # 1000 s, of which 100 s went into the preparation and 10 % are kept: 800 s
    clock = Clock(started=time.monotonic() - 100)
    left = _search_settings(settings(time_budget_s=1000.0), clock).time_budget_s
    assert left == pytest.approx(800, abs=1)
    # a greedy selection, which a search by gain ends in, takes 10 % more
    left = _search_settings(settings(time_budget_s=1000.0, objective="gain"), clock).time_budget_s
    assert left == pytest.approx(700, abs=1)


def test_no_budget_no_end() -> None:
    assert _search_settings(settings(trials=3), Clock()).time_budget_s is None


def test_too_little_time_is_a_mistake() -> None:
    with pytest.raises(UserError, match="must leave 15 s for the search"):
        _search_settings(settings(time_budget_s=30.0), Clock())


def test_stages_are_timed() -> None:
    clock = Clock()
    with clock.stage("nap"):
        time.sleep(0.01)
    assert 0.01 <= clock.stages["nap"] <= clock.elapsed


def test_a_resumed_run_that_has_read_the_locked_split_is_only_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replace(settings(time_budget_s=30.0), data=tmp_path, out=tmp_path / "run", cache=tmp_path / "cache")
    prepared = tiny_prepared(tmp_path / "prepared")
    folder = start(first, "set")
    write_json(folder.winners, {})
    write_json(folder.results, [])
    figures = EnsembleFigures(locked_dice=None, locked_dice_per_class={}, n=0)
    earlier = RunSummary(
        dataset="set", members=(), ensemble=figures, confidence={}, seconds={"search": 12.0, "report": 9.0}
    )
    earlier.save(folder.summary)
    concluded: list[RunFolder] = []
    for name in ("search", "assemble", "read_locked"):
        monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("must not be done again"))
    monkeypatch.setattr(module, "calibrate_if_possible", lambda *_, **__: pytest.fail("must not be done again"))
    monkeypatch.setattr(stages, "prepare", lambda *_: prepared)
    monkeypatch.setattr(stages, "conclude", lambda run, *_: concluded.append(run.folder))
    monkeypatch.setattr(module, "check_search_settings", lambda *_: None)
    summary = run_all(replace(first, resume=True), serial_map)
    assert concluded == [folder]
    assert summary.seconds["search"] == 12.0
    assert summary.seconds["report"] < 9.0

    def other_coverage(folder: RunFolder, coverage: float) -> None:
        raise UserError(f"{folder.root.name} must stay as it is, but {coverage} was asked for")

    monkeypatch.setattr(module, "check_unchanged", other_coverage)
    with pytest.raises(UserError, match=r"run must stay as it is, but 0\.8 was asked for"):
        run_all(replace(first, resume=True, coverage=0.8), serial_map)
    assert concluded == [folder]


def test_a_resumed_run_reads_the_locked_split_with_the_winners_that_began_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replace(settings(time_budget_s=30.0), data=tmp_path, out=tmp_path / "run", cache=tmp_path / "cache")
    folder = start(first, "set")
    write_json(folder.winners, {})
    write_json(folder.predictions / "views" / "a.json", {})  # killed after its first case
    done: list[str] = []
    for name in ("search", "assemble"):
        monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("must not be done again"))
    monkeypatch.setattr(stages, "prepare", lambda *_: tiny_prepared(tmp_path / "prepared"))
    monkeypatch.setattr(stages, "read_locked", lambda *_, **__: done.append("read"))
    monkeypatch.setattr(stages, "conclude", lambda *_: done.append("concluded"))
    monkeypatch.setattr(stages, "retime", lambda *_: None)
    for name in ("check_search_settings", "check_unchanged"):
        monkeypatch.setattr(module, name, lambda *_: None)
    run_all(replace(first, resume=True), serial_map)
    assert done == ["read", "concluded"]


@pytest.mark.parametrize(
    ("budget", "calibrating", "judged", "described"),
    [
        (None, 900.0, object(), True),  # no budget: there is time
        (1000.0, 300.0, object(), True),  # 3 x 300 s are left of 1000 s
        (1000.0, 400.0, object(), False),
        (1000.0, 0.0, None, False),  # what could not be calibrated is not described either
    ],
)
def test_members_are_described_where_the_budget_leaves_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: float | None,
    calibrating: float,
    judged: object,
    described: bool,
) -> None:
    search = {"trials": 3} if budget is None else {"time_budget_s": budget}
    told = replace(settings(**search), data=tmp_path, out=tmp_path / "run", cache=tmp_path / "cache")
    prepared = tiny_prepared(tmp_path / "prepared")
    clock, order = Clock(), list[str]()

    def calibrate(*_: object, **__: object) -> object:
        order.append("calibrate")
        return judged

    class Stage(dict[str, float]):
        def __setitem__(self, name: str, seconds: float) -> None:
            super().__setitem__(name, calibrating if name == "calibrate" else seconds)

    clock.stages = Stage()
    monkeypatch.setattr(stages, "prepare", lambda *_: prepared)
    monkeypatch.setattr(stages, "search", lambda *_: None)
    monkeypatch.setattr(stages, "assemble", lambda *_, **__: ("winners", None))
    monkeypatch.setattr(module, "calibrate_if_possible", calibrate)
    monkeypatch.setattr(module, "check_search_settings", lambda *_: None)
    monkeypatch.setattr(selecting, "describe_if_possible", lambda *given, **_: order.append(f"describe {given[1]}"))
    monkeypatch.setattr(stages, "read_locked", lambda *_, **__: order.append("read"))
    monkeypatch.setattr(stages, "conclude", lambda *_: None)
    monkeypatch.setattr(stages, "retime", lambda *_: None)
    run_all(told, serial_map, clock)
    assert order == ["calibrate", *(["describe winners"] if described else []), "read"]


def test_a_run_by_gain_selects_greedily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = replace(settings(trials=3, objective="gain"), data=tmp_path, out=tmp_path / "run", top=4)
    order: list[str] = []
    monkeypatch.setattr(stages, "prepare", lambda *_: tiny_prepared(tmp_path / "prepared"))
    monkeypatch.setattr(stages, "search", lambda _, search: order.append(f"search by {search.objective}"))
    monkeypatch.setattr(stages, "assemble", lambda *_, **__: pytest.fail("the rule drops who completes the others"))
    monkeypatch.setattr(
        selecting, "assemble_greedily", lambda *_, most, gpus: order.append(f"greedy {most}") or ("winners", None)
    )
    monkeypatch.setattr(selecting, "describe_if_possible", lambda *_, **__: pytest.fail("greedy has described them"))
    monkeypatch.setattr(module, "calibrate_if_possible", lambda *_, **__: object())
    monkeypatch.setattr(module, "check_search_settings", lambda *_: None)
    monkeypatch.setattr(stages, "read_locked", lambda *_, **__: order.append("read"))
    for name in ("conclude", "retime"):
        monkeypatch.setattr(stages, name, lambda *_: None)
    run_all(told, serial_map)
    assert order == ["search by gain", "greedy 4", "read"]


def test_a_coverage_that_is_none_is_told_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.9 means 90 %"):
        run_all(replace(settings(trials=1), out=tmp_path / "run", coverage=90.0), serial_map)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("budget", [True, False])
def test_a_wrong_search_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: bool) -> None:
    wrong = replace(settings(time_budget_s=30.0), data=tmp_path, out=tmp_path / "run", cache=tmp_path / "cache")

    def refuse(*_: object) -> None:
        if not budget:
            raise UserError("space must exist")

    monkeypatch.setattr(stages, "prepare", lambda *_: tiny_prepared(tmp_path / "prepared"))
    monkeypatch.setattr(module, "check_search_settings", refuse)
    with pytest.raises(UserError, match="must leave 15 s" if budget else "space must exist"):
        run_all(wrong, serial_map)
    assert not (tmp_path / "run").exists()
