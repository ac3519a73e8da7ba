"""A person's masks as a member of an ensemble of two networks, from the check to the row of a case."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from overread.architectures import build_segmenter
from overread.data.prepare import prepare_dataset, serial_map
from overread.data.store import open_case
from overread.errors import UserError
from overread.pipeline.calibrating import calibrate
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.prediction import predict_folder
from overread.pipeline.selecting import describe, imported_of, select, votes_of
from overread.pipeline.stages import Run, assemble, import_folders, read_locked
from overread.pipeline.summary import summarise_run
from overread.records import Prepared, PrepareSettings, TrialOutcome, VariantScore, Winners
from overread.testing.tiny import tiny_architecture, tiny_config
from overread.tracking.runs import Tracker
from overread.training.checkpoint import save_weights

SETTINGS = PrepareSettings(folds=2)
CASES = 20


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for i in range(CASES):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, i % 4 : i % 4 + 4] = 255
        for folder, pixels in (("images", rng.integers(0, 255, (8, 8)).astype(np.uint8)), ("masks", mask)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"n{i:02d}.png")
    return prepare_dataset(root, SETTINGS, root.parent / "cache", serial_map)


@pytest.fixture
def data(prepared: Prepared) -> Path:
    """The data set on disk: beside the cache that `prepared` made."""
    return next(Path(prepared.root).parents[1].glob("set*/images")).parent


@pytest.fixture
def run(tmp_path: Path, data: Path, prepared: Prepared) -> Iterator[Run]:
    folder = RunFolder(tmp_path / "run")
    record = RunRecord(
        data=str(data),
        cache=str(tmp_path / "cache"),
        prepare=SETTINGS,
        tracking_uri=None,
        experiment="e",
        search_id="s",
    )
    with tiny_architecture():
        for seed, trial in enumerate(("t0", "t1")):
            place = folder.search / "trials" / trial
            place.mkdir(parents=True)
            torch.manual_seed(seed)
            save_weights(place / "weights.safetensors", build_segmenter(tiny_config(seed=seed)))
            score = VariantScore(variant="main", dice=0.5, dice_per_class={}, cases=1, seconds_per_case=0.1)
            TrialOutcome(
                trial_id=trial,
                config=tiny_config(seed=seed),
                state="finished",
                variants=(score,),
                weights="weights.safetensors",
            ).save(place / "outcome.json")
        yield Run(folder=folder, record=record, prepared=prepared, tracker=cast(Tracker, None))


@pytest.fixture
def person(tmp_path: Path, prepared: Prepared) -> Path:
    """The truth of every case but the first locked one, as class ids."""
    folder = tmp_path / "person"
    folder.mkdir()
    for case in prepared.cases:
        if case.id != prepared.splits.locked[0]:
            Image.fromarray(np.array(open_case(prepared, case).truth)).save(folder / f"{case.id}.png")
    return folder


def test_a_person_votes_and_fails_where_nothing_was_drawn(
    run: Run, person: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="overread"):
        (member,) = import_folders(run, {"person": person}, serial_map)
    assert (member.validation_dice, member.cases) == (1.0, CASES - 1)
    assert f"no reading of 1 of {CASES} cases" in caplog.text
    winners, manifest = assemble(run, top=5, imported=(member,))
    assert Winners.load(run.folder.winners).imported == manifest.imported == (member,)
    assert winners.rule.endswith("; joined by person")
    calibrate(run, serial_map)
    results = {result.confidence.case: result for result in read_locked(run, serial_map)}
    missing, *read = run.prepared.splits.locked
    assert results[missing].confidence.flag == "member_failed:person"
    assert results[missing].confidence.n_readings == 2
    assert all(results[case].confidence.n_readings == 3 for case in read)
    assert all(results[case].member_dice["person"] == 1.0 for case in read)
    with (run.folder.predictions / "confidence.csv").open() as lines:
        flags = {row["case"]: row["flag"] for row in csv.DictReader(lines)}
    assert flags == {case: "member_failed:person" if case == missing else "" for case in results}
    figures = summarise_run("set", manifest, list(results.values()), seconds={}, trials={}).members
    assert [(f.name, f.architecture, f.locked_dice, f.n) for f in figures][2] == (
        "person", "imported", 1.0, len(read),
    )  # fmt: skip
    Image.new("L", (8, 8)).save(person / f"{read[0]}.png")
    with pytest.raises(UserError, match="must be those that were frozen with the winners"):
        read_locked(run, serial_map)


def test_contributions_of_given_members_are_measured(run: Run, person: Path) -> None:
    imported = import_folders(run, {"person": person}, serial_map)
    winners, _ = assemble(run, top=5, imported=imported)
    report = describe(run, winners, serial_map)
    assert report is not None
    alone = {row.member: row.alone.mean for row in report.contributions}
    assert set(alone) == {"t0:main", "t1:main", "person"}
    assert alone["person"] == 1.0
    names = [row.name for row in report.comparison]
    assert names == ["best single", "all", "without imported"]
    assert report.comparison[0].votes == {"person": 1.0}


def test_greedy_selection_takes_a_person_as_any_candidate(run: Run, person: Path) -> None:
    imported = import_folders(run, {"person": person}, serial_map)
    report = select(run, serial_map, most=3, imported=imported)
    assert report.selection.rounds[0].member == "person"
    assert set(votes_of(report)) == {("t0", "main"), ("t1", "main")}
    (chosen,) = imported_of(report, imported)
    assert chosen.weight == report.selection.votes["person"] / max(votes_of(report).values())


def test_other_labels_and_shapes_are_one_line_a_member(run: Run, person: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(person / "n03.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(person / "n04.png")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError) as caught:
        import_folders(run, {"person": person, "nnunet": tmp_path / "none"}, serial_map)
    first, second = caught.value.problems
    assert first.startswith("member person: readings must fit the data, but 2 of 19 do not; the first is case n03: ")
    assert "must be among [0, 255], but found [7]" in first
    assert second == f"member nnunet: {tmp_path / 'none'} must hold readings named as the cases, but holds none: " \
        "check the path"  # fmt: skip


def test_new_images_need_the_readings_of_a_member_and_take_guests(run: Run, person: Path, data: Path) -> None:
    assemble(run, top=5, imported=import_folders(run, {"person": person}, serial_map))
    new, drawn = run.folder.root / "new", run.folder.root / "drawn"
    for folder, name in ((new, "images"), (drawn, "masks")):
        folder.mkdir()
        for case in ("n00", "n01"):
            (folder / f"{case}.png").write_bytes((data / name / f"{case}.png").read_bytes())
    (drawn / "n01.png").unlink()
    out = run.folder.root / "out"
    with pytest.raises(UserError, match="member person of the package must have a folder"):
        predict_folder(run.folder.ensemble, new, out, serial_map)
    with pytest.raises(UserError, match="is a network of the package"):
        predict_folder(run.folder.ensemble, new, out, serial_map, members={"person": drawn, "tiny-t0": drawn})
    assert not out.exists()
    results = predict_folder(run.folder.ensemble, new, out, serial_map, members={"person": drawn, "guest": drawn})
    assert [(r.confidence.n_readings, r.confidence.flag) for r in results] == [
        (4, ""), (2, "member_failed:person,guest"),
    ]  # fmt: skip
