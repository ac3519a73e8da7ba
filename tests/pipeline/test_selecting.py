"""Greedy selection of a run's members, from networks on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from overread.architectures import build_segmenter
from overread.architectures.contract import count_parameters
from overread.data.prepare import serial_map
from overread.data.store import open_case
from overread.ensemble.candidates import StoredPredictions, cost_of
from overread.ensemble.greedy import Selection
from overread.ensemble.selection import Candidate, shortlist
from overread.errors import UserError
from overread.metrics.overlap import case_dice
from overread.pipeline import selecting
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.selecting import _cost, describe, describe_if_possible, select
from overread.pipeline.selection_report import SelectionReport, brought, selection_grids, votes_of
from overread.pipeline.stages import Run, assemble
from overread.records import ImportedMember, PrepareSettings, TrialConfig, TrialOutcome, VariantScore
from overread.search.leaderboard import read_outcomes
from overread.testing.tiny import tiny_architecture, tiny_config, tiny_prepared
from overread.tracking.runs import Tracker
from overread.training.checkpoint import save_weights
from overread.training.evaluate import predict_probabilities
from overread.training.inference import load_segmenter

SEEDS = {"t0": 0, "t1": 1, "t2": 2}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run with three untrained networks and one whose weights are broken."""
    folder = RunFolder(tmp_path / "run")
    prepared = tiny_prepared(tmp_path / "data", cases=12)
    record = RunRecord(
        data="data",
        cache=str(tmp_path / "cache"),
        prepare=PrepareSettings(),
        tracking_uri=None,
        experiment="e",
        search_id="s",
    )
    with tiny_architecture():
        for trial in (*SEEDS, "broken"):
            config = tiny_config(seed=SEEDS.get(trial, 9))
            score = VariantScore(
                variant="main", dice=0.9 if trial == "broken" else 0.5, dice_per_class={}, cases=4, seconds_per_case=0.2
            )
            outcome = TrialOutcome(
                trial_id=trial,
                config=config,
                state="finished",
                variants=(score,),
                weights="weights.safetensors",
                parameters=100,
            )
            place = folder.search / "trials" / trial
            place.mkdir(parents=True)
            torch.manual_seed(config.seed)
            save_weights(place / "weights.safetensors", build_segmenter(config))
            outcome.save(place / "outcome.json")
        (folder.search / "trials" / "broken" / "weights.safetensors").write_text("broken")
        yield Run(folder=folder, record=record, prepared=prepared, tracker=cast(Tracker, None))


def test_members_are_chosen_by_what_their_networks_read(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="overread"):
        report = select(run, serial_map, most=2)
    assert "candidate broken:main is left out" in caplog.text
    assert not run.folder.selection.exists()  # until the winners are frozen
    assert not list(run.folder.root.glob(".candidates-*"))
    # the first vote is the best network alone, read again here
    outcomes, alone = read_outcomes(run.folder.search), {}
    for trial in SEEDS:
        outcome, folder = outcomes[trial]
        segmenter = load_segmenter(outcome.config, folder / "weights.safetensors", "cpu")
        dice = []
        for case in run.prepared.splits.folds[0]:
            found = predict_probabilities(segmenter, run.prepared, case, outcome.config, None, "cpu").astype(np.float16)
            dice.append(case_dice(found.argmax(0).astype(np.uint8), open_case(run.prepared, case).truth, 2).mean)
        alone[f"{trial}:main"] = float(np.mean(dice))
    first = report.selection.rounds[0]
    assert first.dice == pytest.approx(max(alone.values()))
    assert alone[first.member] == max(alone.values())
    assert len(report.selection.votes) == 2
    assert report.selection.cost == pytest.approx(400.0)  # two networks of 0.2 s
    assert [row.name for row in report.comparison] == ["best single", "greedy", "top 2", "all"]
    assert {row.member for row in report.contributions} == set(report.selection.votes)
    assert set(report.errors.members) == {"t0:main", "t1:main", "t2:main"}


def test_votes_become_weights_of_frozen_winners(run: Run) -> None:
    votes = {("t1", "main"): 3.0, ("t0", "main"): 1.0}
    winners, manifest = assemble(run, top=2, votes=votes)
    assert [(m.trial_id, m.weight) for m in winners.members] == [("t1", 1.0), ("t0", pytest.approx(1 / 3, abs=1e-6))]
    assert winners.rule.endswith("votes: t1 main (3), t0 main (1)")
    assert [member.weight for member in manifest.members] == [member.weight for member in winners.members]


def test_budget_in_parameters(run: Run) -> None:
    report = select(run, serial_map, most=3, cost="parameters", budget=150.0)
    assert len(report.selection.votes) == 1
    assert report.selection.cost == 100.0
    assert report.selection.ended.startswith("the budget fits 1 of at least 3 members; ")
    rows = {row.name: row for row in report.comparison}
    assert [(len(rows[name].votes), rows[name].cost) for name in ("greedy", "top 3", "all")] == [
        (1, 100.0), (1, 100.0), (3, 300.0),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"50 is below the cheapest \(100\)"):
        select(run, serial_map, most=3, cost="parameters", budget=50.0)


def candidate(trial: str, variant: str, config: TrialConfig, parameters: int, seconds: float) -> Candidate:
    score = VariantScore(variant=variant, dice=0.5, dice_per_class={}, cases=1, seconds_per_case=seconds)
    outcome = TrialOutcome(trial_id=trial, config=config, state="finished", variants=(score,), parameters=parameters)
    return Candidate(outcome, score, Path("nowhere"))


def test_a_level_pays_for_itself_and_variants_of_one_network_pay_once() -> None:
    options = {"width": 2, "level": 3, "deep_supervision": True, "inference": "accurate"}
    config = tiny_config(architecture="unet_sharp", options=options)
    whole = build_segmenter(config)
    parameters = count_parameters(whole)
    level = count_parameters(
        build_segmenter(replace(config, options=options | {"level": 1, "deep_supervision": False}))
    )
    assert level < parameters / 2
    names = {"t": ["main", "accurate", "level_1"], "other": ["main", "level_1"]}
    found = {f"{t}:{v}": candidate(t, v, config, parameters, 0.25) for t, own in names.items() for v in own}
    costs = {name: _cost(name, c, "parameters") for name, c in found.items()}
    assert cost_of(["t:main"], costs) == cost_of(["t:main", "t:accurate"], costs) == parameters
    assert cost_of(["t:level_1"], costs) == level
    assert cost_of(["t:main", "t:level_1"], costs) == parameters + level  # the package stores both
    assert cost_of(["t:main", "other:main", "other:level_1"], costs) == 2 * parameters + level
    # each variant is read apart
    times = {name: _cost(name, c, "ms") for name, c in found.items()}
    assert cost_of(["t:main", "t:accurate", "t:level_1"], times) == 750.0


def test_no_candidate_is_read_again_for_the_tables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[tuple[str, str], int] = {}
    plain = StoredPredictions.probabilities

    def counted(stored: StoredPredictions, member: str, case: str) -> np.ndarray:
        read[member, case] = read.get((member, case), 0) + 1
        return plain(stored, member, case)

    monkeypatch.setattr(StoredPredictions, "probabilities", counted)
    monkeypatch.setattr(selecting, "select_greedily", lambda *_: one)
    one = Selection(votes={"t0:main": 1.0}, dice=0.5, rounds=(), cost=None, ended="given")
    select(run, serial_map, most=1)
    # each alone, and all together: one of three is greedy's choice, the top 1 and the best single
    assert set(read.values()) == {2}


def test_a_selection_per_class_weights_the_winners(run: Run) -> None:
    report = select(run, serial_map, most=2, per_class=True)
    (label,) = report.per_class
    assert label == "square"
    # one foreground class: its votes, the highest of them 1
    votes = report.per_class[label].votes
    assert report.selection.votes == votes
    assert {name: own[1] for name, own in report.class_weights.items()} == {
        name: pytest.approx(vote / max(votes.values())) for name, vote in votes.items()
    }
    greedy = next(row for row in report.comparison if row.name == "greedy per class")
    assert greedy.dice.mean == pytest.approx(report.selection.dice)
    winners, manifest = assemble(run, top=2, votes=votes_of(report))
    report.write(run.folder)
    assert SelectionReport.load(run.folder.selection) == report
    assert {f"{m.trial_id}:{m.variant}": m.class_weights for m in manifest.members} == report.class_weights
    assert set(brought(run.folder, winners)) == {member.name for member in winners.members}
    again, _ = assemble(run, top=2, votes=votes_of(report))
    assert set(brought(run.folder, again)) == set(brought(run.folder, winners))
    assemble(run, top=2, votes=dict.fromkeys(votes_of(report), 1.0))
    # the same members with other votes bring something else: both files would be of others
    assert not run.folder.selection.exists() and not run.folder.members.exists()


def test_tables_and_names(run: Run) -> None:
    report = select(run, serial_map, most=1)
    (choice,) = votes_of(report)
    assert choice[1] == "main" and choice[0] in SEEDS
    assert [len(grid.rows) for grid in selection_grids(report)] == [len(report.selection.rounds), 4, 1]


def test_the_shortlist_is_of_one_fold_and_has_no_reading_twice(run: Run) -> None:
    outcomes = read_outcomes(run.folder.search)
    other, folder = outcomes["t1"]
    (score,) = other.variants
    twice = replace(other, variants=(score, replace(score, variant="sharp")))
    elsewhere = replace(outcomes["t2"][0], config=replace(outcomes["t2"][0].config, fold=1))
    changed = outcomes | {"t1": (twice, folder), "t2": (elsewhere, outcomes["t2"][1])}
    found = [candidate.choice for candidate in shortlist(changed, 9)]
    assert found == [("broken", "main"), ("t0", "main"), ("t1", "main")]
    assert len(shortlist(changed, 2)) == 2
    # a member of the ensemble that the search built comes first, once; the fold is that of the best one all the same
    last = found[-1]
    assert [c.choice for c in shortlist(changed, 9, first=[last[0], "t2"])] == [last, *found[:-1]]
    assert [c.choice for c in shortlist(changed, 9, one_fold=False)] == [*found, ("t2", "main")]
    with pytest.raises(UserError, match="at least one finished trial"):
        shortlist({}, 9)


def test_members_named_by_people_are_described(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    winners, _ = assemble(run, top=2, chosen=(("t0", "main"), ("t1", "main")))
    report = describe(run, winners, serial_map)
    assert report is not None
    assert SelectionReport.load(run.folder.selection) == report
    assert [row.member for row in report.contributions] == ["t0:main", "t1:main"]
    assert [row.name for row in report.comparison] == ["best single", "all"]
    assert set(brought(run.folder, winners)) == {member.name for member in winners.members}
    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.WARNING, logger="overread"):
        patched.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
        assert describe(run, winners, lambda *_: pytest.fail("must not read")) is None
    assert "contributions are not measured" in caplog.text


def test_a_variant_that_reads_like_another_is_described(run: Run) -> None:
    outcome, folder = read_outcomes(run.folder.search)["t0"]
    (score,) = outcome.variants
    replace(outcome, variants=(score, replace(score, variant="sharp"))).save(folder / "outcome.json")
    winners, _ = assemble(run, top=2, chosen=(("t0", "main"), ("t0", "sharp")))
    report = describe(run, winners, serial_map)
    assert report is not None
    assert [row.member for row in report.contributions] == ["t0:main", "t0:sharp"]


def test_a_selection_that_would_be_refused_trains_and_reads_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "train_folds", lambda *_, **__: pytest.fail("must not train"))

    def unread(*_: object) -> list[object]:
        pytest.fail("must not read")

    person = ImportedMember(name="person", folder="", sha256="", cases=4, validation_dice=0.9)
    with pytest.raises(UserError, match=r"must fit a network, but 50 is below the cheapest \(200\)"):
        select(run, unread, most=3, budget=50.0, imported=(person,), out_of_fold=True)
    retrained = replace(run, record=replace(run.record, retrained_from="/first"))
    with pytest.raises(UserError, match="choose in /first, and retrain again"):
        select(retrained, unread, most=3, out_of_fold=True)
    assemble(run, top=2)
    run.folder.predictions.mkdir()
    run.folder.results.write_text("[]")
    with pytest.raises(UserError, match=r"must stay as frozen, .* search into another --out"):
        select(run, unread, most=3, out_of_fold=True)


def test_what_cannot_be_described_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    winners, _ = assemble(run, top=2)
    for error, says in ((UserError("a file is gone"), "a file is gone"), (MemoryError("all"), "MemoryError: all")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(selecting, "describe", fail)
        with caplog.at_level(logging.WARNING, logger="overread"):
            assert describe_if_possible(run, winners, serial_map) is None
        assert f"the run goes on: {says}" in caplog.text


def test_a_full_disk_is_told_before_anything_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="select by the rule"):
        select(run, lambda *_: pytest.fail("must not read"), most=2)
