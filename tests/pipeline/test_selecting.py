"""Greedy selection of a run's members, from networks on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from overread.architectures import build_segmenter
from overread.data.prepare import serial_map
from overread.data.store import open_case
from overread.ensemble.selection import shortlist
from overread.errors import UserError
from overread.metrics.overlap import case_dice
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.selecting import SelectionReport, select, selection_grids, votes_of
from overread.pipeline.stages import Run, assemble
from overread.records import PrepareSettings, TrialOutcome, VariantScore
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
    assert SelectionReport.load(run.folder.selection) == report
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
    with pytest.raises(UserError, match=r"50 is below the cheapest \(100\)"):
        select(run, serial_map, most=3, cost="parameters", budget=50.0)


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
    with pytest.raises(UserError, match="at least one finished trial"):
        shortlist({}, 9)


def test_a_full_disk_is_told_before_anything_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from overread.pipeline import selecting

    monkeypatch.setattr(selecting.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match="select by the rule"):
        select(run, lambda *_: pytest.fail("must not read"), most=2)
