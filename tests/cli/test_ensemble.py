"""What `overread ensemble` is told reaches the selection."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from overread.cli import main
from overread.data.prepare import serial_map
from overread.errors import UserError
from overread.pipeline import selecting, selection_report, stages
from overread.pipeline.folders import RunFolder


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
    monkeypatch.setattr(stages, "check_searched", lambda *_: None)
    with pytest.raises(SystemExit):
        main(["ensemble", "--out", str(tmp_path), "--top", "3", *given])
    assert {name: told[name] for name in expected} == expected
    assert told["most"] == 3


@pytest.mark.parametrize("select", ["greedy", "greedy-per-class"])
def test_votes_are_selected_for_the_soft_vote_only(
    select: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["ensemble", "--out", str(tmp_path), "--select", select, "--fusion", "staple"])
    assert f"--select {select} needs --fusion soft" in capsys.readouterr().err


def test_a_run_of_retrained_winners_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("overread.cli.ensemble")
    monkeypatch.setattr(module, "working", lambda *_, **__: nullcontext(serial_map))
    run = SimpleNamespace(record=SimpleNamespace(retrained_from="/first"), folder=RunFolder(tmp_path))
    monkeypatch.setattr(stages, "open_run", lambda *_: run)
    monkeypatch.setattr(stages, "import_folders", lambda *_: pytest.fail("must not read"))
    (tmp_path / "person").mkdir()
    with pytest.raises(SystemExit):
        main(["ensemble", "--out", str(tmp_path), "--member", f"person={tmp_path / 'person'}"])
    assert "choose in /first, and retrain again" in capsys.readouterr().err


@pytest.mark.parametrize("refused", [True, False])
def test_a_selection_is_written_once_its_winners_are_frozen(
    refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    module = importlib.import_module("overread.cli.ensemble")
    found = SimpleNamespace(folds=(0, 1, 2), write=lambda folder: done.append(("written", folder)))

    def assemble(*_: object, folds: int, **__: object) -> tuple[object, None]:
        done.append(f"{folds} folds")
        if refused:
            raise UserError("winners must stay")
        return SimpleNamespace(rule="greedy", members=(), imported=()), None

    monkeypatch.setattr(module, "working", lambda *_, **__: nullcontext(serial_map))
    monkeypatch.setattr(stages, "open_run", lambda *_: None)
    monkeypatch.setattr(stages, "check_searched", lambda *_: None)
    monkeypatch.setattr(stages, "assemble", assemble)
    monkeypatch.setattr(selecting, "select", lambda *_, **__: found)
    for name in ("votes_of", "imported_of", "selection_grids"):
        monkeypatch.setattr(selection_report, name, lambda *_: ())
    asked = ["ensemble", "--out", str(tmp_path), "--select", "greedy", "--out-of-fold", "--no-calibration"]
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == (2 if refused else 0)
    assert done == ["3 folds", *([] if refused else [("written", RunFolder(tmp_path.resolve()))])]
