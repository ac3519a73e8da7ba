"""A person's masks as a member of an ensemble of two networks, from the check to the row of a case."""

from __future__ import annotations

import csv
import importlib
import json
import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overread.cli import main
from overread.data.prepare import serial_map
from overread.data.store import open_case
from overread.errors import UserError
from overread.pipeline.calibrating import calibrate
from overread.pipeline.prediction import predict_folder
from overread.pipeline.selecting import describe, select
from overread.pipeline.selection_report import brought, imported_of, votes_of
from overread.pipeline.stages import Run, assemble, begin, conclude, import_folders, open_run, read_locked
from overread.pipeline.summary import summarise_run
from overread.records import Prepared, Winners
from overread.search.leaderboard import read_outcomes


@pytest.fixture
def person(tmp_path: Path, squares_prepared: Prepared) -> Path:
    """The truth of every case but the first locked one, as class ids."""
    folder = tmp_path / "person"
    folder.mkdir()
    for case in squares_prepared.cases:
        if case.id != squares_prepared.splits.locked[0]:
            Image.fromarray(np.array(open_case(squares_prepared, case).truth)).save(folder / f"{case.id}.png")
    return folder


def test_a_person_votes_and_fails_where_nothing_was_drawn(
    two_networks: Run, person: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="overread"):
        (member,) = import_folders(two_networks, {"person": person}, serial_map)
    assert (member.validation_dice, member.cases) == (1.0, len(two_networks.prepared.cases) - 1)
    assert f"no reading of 1 of {len(two_networks.prepared.cases)} cases" in caplog.text
    winners, manifest = assemble(two_networks, top=5, imported=(member,))
    assert Winners.load(two_networks.folder.winners).imported == manifest.imported == (member,)
    assert winners.rule.endswith("; joined by person")
    calibrate(two_networks, serial_map)
    results = {result.confidence.case: result for result in read_locked(two_networks, serial_map)}
    missing, *read = two_networks.prepared.splits.locked
    assert results[missing].confidence.flag.startswith("member_failed:person")
    assert results[missing].confidence.n_readings == 2
    assert all(results[case].confidence.n_readings == 3 for case in read)
    assert all(results[case].member_dice["person"] == 1.0 for case in read)
    with (two_networks.folder.predictions / "confidence.csv").open() as lines:
        flags = {row["case"]: row["flag"].partition(";")[0] for row in csv.DictReader(lines)}
    assert flags == {case: "member_failed:person" if case == missing else "" for case in results}
    figures = summarise_run("set", manifest, list(results.values()), seconds={}, trials={}).members
    assert [(f.name, f.architecture, f.locked_dice, f.n) for f in figures][2] == (
        "person", "imported", 1.0, len(read),
    )  # fmt: skip
    Image.new("L", (8, 8)).save(person / f"{read[0]}.png")
    with pytest.raises(UserError, match="must be those that were frozen with the winners"):
        read_locked(two_networks, serial_map)


def test_contributions_of_given_members_are_measured(two_networks: Run, person: Path) -> None:
    imported = import_folders(two_networks, {"person": person}, serial_map)
    winners, _ = assemble(two_networks, top=5, imported=imported)
    report = describe(two_networks, winners, serial_map)
    assert report is not None
    alone = {row.member: row.alone.mean for row in report.contributions}
    assert set(alone) == {"t0:main", "t1:main", "person"}
    assert alone["person"] == 1.0
    names = [row.name for row in report.comparison]
    assert names == ["best single", "all", "without imported"]
    assert report.comparison[0].votes == {"person": 1.0}
    with two_networks.folder.members.open() as lines:
        rows = {row["member"]: row for row in csv.DictReader(lines)}
    assert set(rows) == set(alone)
    assert rows["person"]["dice_alone"] == "1"
    assert rows["person"]["error_correlation"] == ""  # it has no errors
    assert rows["t0:main"]["error_correlation"] == rows["t0:main"]["error_correlation_t1:main"]
    found = brought(two_networks.folder, winners)
    assert {name: own.contribution for name, own in found.items()} == {
        {"t0:main": "unet-t0", "t1:main": "unet-t1"}.get(row.member, row.member): row.contribution
        for row in report.contributions
    }


def test_greedy_selection_takes_a_person_as_any_candidate(two_networks: Run, person: Path) -> None:
    imported = import_folders(two_networks, {"person": person}, serial_map)
    report = select(two_networks, serial_map, most=3, imported=imported)
    assert report.selection.rounds[0].member == "person"
    assert set(votes_of(report)) == {("t0", "main"), ("t1", "main")}
    (chosen,) = imported_of(report, imported)
    assert chosen.weight == report.selection.votes["person"] / max(votes_of(report).values())


def test_the_name_of_a_network_is_refused_before_anything_is_read(two_networks: Run, person: Path) -> None:
    def never(*_: object) -> list[object]:
        raise AssertionError("a reading was checked")

    with pytest.raises(UserError, match="name of its own, but unet-t1 is a network of the run"):
        import_folders(two_networks, {"person": person, "unet-t1": person}, never)


def test_other_labels_and_shapes_are_one_line_a_member(two_networks: Run, person: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(person / "n03.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(person / "n04.png")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError) as caught:
        import_folders(two_networks, {"person": person, "nnunet": tmp_path / "none"}, serial_map)
    first, second = caught.value.problems
    assert first.startswith("member person: readings must fit the data, but 2 of 19 do not; the first is case n03: ")
    assert "must be among [0, 255], but found [7]" in first
    assert second == f"member nnunet: {tmp_path / 'none'} must hold readings named as the cases, but holds none: " \
        "check the path"  # fmt: skip


def test_new_images_need_the_readings_of_a_member_and_take_guests(
    two_networks: Run, person: Path, squares: Path
) -> None:
    assemble(two_networks, top=5, imported=import_folders(two_networks, {"person": person}, serial_map))
    new, drawn = two_networks.folder.root / "new", two_networks.folder.root / "drawn"
    for folder, name in ((new, "images"), (drawn, "masks")):
        folder.mkdir()
        for case in ("n00", "n01"):
            (folder / f"{case}.png").write_bytes((squares / name / f"{case}.png").read_bytes())
    (drawn / "n01.png").unlink()
    out = two_networks.folder.root / "out"
    with pytest.raises(UserError, match="member person of the package must have a folder"):
        predict_folder(two_networks.folder.ensemble, new, out, serial_map)
    with pytest.raises(UserError, match="is a network of the package"):
        predict_folder(two_networks.folder.ensemble, new, out, serial_map, members={"person": drawn, "unet-t0": drawn})
    assert not out.exists()
    results = predict_folder(
        two_networks.folder.ensemble, new, out, serial_map, members={"person": drawn, "guest": drawn}
    )
    assert [r.confidence.n_readings for r in results] == [4, 2]
    assert results[0].confidence.flag == ""
    assert results[1].confidence.flag.startswith("member_failed:person,guest")


def test_the_commands_take_folders(
    two_networks: Run,
    person: Path,
    squares: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("ensemble", "predict"):
        module = importlib.import_module(f"overread.cli.{command}")
        monkeypatch.setattr(module, "working", lambda *_, **__: nullcontext(serial_map))
    out, new = two_networks.folder.root, two_networks.folder.root / "new"
    open_run(two_networks.folder, serial_map).tracker.sync(read_outcomes(two_networks.folder.search))

    def overread(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            main(arguments)
        return capsys.readouterr()

    told = overread("ensemble", "--out", str(out), "--member", f"unet-t0={person}", "--no-calibration")
    assert told[1].strip().splitlines()[-1].startswith("error: --member must have a name of its own, but unet-t0 is")
    assert not (out / "winners.json").exists()
    told = overread("ensemble", "--out", str(out), "--member", f"person={person}", "--no-calibration")
    assert "member: person, imported, 19 cases, validation Dice 1.0000" in told[0]
    assert "without imported" in told[0]
    told = overread("ensemble", "--out", str(out), "--member", f"person={person}", "--select", "greedy", "--top", "3",
                    "--no-calibration")  # fmt: skip
    assert "greedy selection with replacement" in told[0] and "joined by person" in told[0]
    rows = json.loads(overread("winners", "--out", str(out), "--json")[0])
    assert {row["trial_id"]: row["expected_dice"] for row in rows} == {"t0": 0.5, "t1": 0.5}
    told = overread("predict", "--package", str(out / "ensemble"), "--images", str(squares / "images"), "--out",
                    str(new), "--member", f"person={squares / 'masks'}")  # fmt: skip
    assert "20 cases read, 0 flagged" in told[0]
    assert "person" in (new / "report.html").read_text()


def test_readings_alone_are_an_ensemble(
    squares: Path, squares_prepared: Prepared, person: Path, tmp_path: Path
) -> None:
    folder = begin(tmp_path / "alone", squares, squares_prepared.settings, squares.parent / "cache", "set")
    with pytest.raises(UserError, match="must not exist yet"):
        begin(tmp_path / "alone", squares, squares_prepared.settings, None, "set")
    run = open_run(folder, serial_map)
    with pytest.raises(UserError, match="at least one finished trial"):
        assemble(run, top=5)
    (some,) = import_folders(run, {"person": person}, serial_map)
    missing = f"some member must have a reading of every case, .* the first is {run.prepared.splits.locked[0]}: add it"
    with pytest.raises(UserError, match=missing):
        assemble(run, top=5, imported=(some,))
    imported = import_folders(run, {"person": person, "label": squares / "masks"}, serial_map)
    with pytest.raises(UserError, match="members can be named where there is a search"):
        assemble(run, top=5, imported=imported, chosen=(("t0", "main"),))
    assert not folder.winners.exists() and not folder.ensemble.exists()
    winners, manifest = assemble(run, top=5, imported=imported)
    assert winners.rule == "imported only; joined by person, label"
    assert (winners.folds, manifest.members, winners.baseline) == ((0,), (), None)
    report = describe(run, winners, serial_map)
    assert report is not None and [row.name for row in report.comparison] == ["best single", "all"]
    assert calibrate(run, serial_map) is not None
    results = read_locked(run, serial_map)
    assert [result.confidence.n_readings for result in results] == [1] + [2] * (len(results) - 1)
    assert results[0].confidence.flag == "member_failed:person;one_reading"
    assert all(result.dice == 1.0 for result in results)
    summary = conclude(run, results, {})
    assert [member.locked_dice for member in summary.members] == [1.0, 1.0]
    assert summary.generalisation["ensemble"].difference.mean == 0.0
    assert [(test.difference, test.p_holm) for test in summary.winner_tests] == [(0.0, 1.0)]
    assert summary.locked_uses >= 1
    new, out = tmp_path / "new", tmp_path / "out"
    new.mkdir()
    first = run.prepared.splits.locked[0]
    for case in run.prepared.splits.locked[:2]:
        (new / f"{case}.png").write_bytes((squares / "images" / f"{case}.png").read_bytes())
    with pytest.raises(UserError, match=f"of 2 cases 1 have none; the first is {first}"):
        predict_folder(folder.ensemble, new, out, serial_map, members={"person": person, "label": person})
    assert not out.exists()
