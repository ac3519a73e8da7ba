"""Candidates trained for the other folds, and a selection on the cases of all folds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from overread.architectures import contract
from overread.cluster.job import TrialJob
from overread.cluster.session import session
from overread.data.prepare import serial_map
from overread.data.slices import Seen
from overread.data.store import open_case
from overread.ensemble.selection import Candidate, shortlist
from overread.errors import UserError
from overread.jsonio import write_json
from overread.metrics.overlap import case_dice
from overread.pipeline import folding, selecting
from overread.pipeline.folding import train_folds, twin_config
from overread.pipeline.selecting import select
from overread.pipeline.stages import Run
from overread.records import Prepared, TrialConfig, TrialOutcome
from overread.search.leaderboard import read_outcomes
from overread.training.evaluate import predict_probabilities
from overread.training.inference import load_segmenter
from overread.training.schedules import learning_rate_factor
from overread.training.seen import RECORD


def test_a_fold_is_held_out_with_the_seed_and_the_passes_of_the_candidate(two_networks: Run) -> None:
    outcome, _ = read_outcomes(two_networks.folder.search)["t1"]
    config = twin_config(outcome, two_networks.prepared, 1)
    first, second = (len(fold) for fold in two_networks.prepared.splits.folds)
    # 4 steps on the cases of the second fold are as many passes as these on those of the first
    assert config.stop_step == round(4 * first / second)
    assert (config.fold, config.seed, config.keep, config.epochs) == (1, outcome.config.seed, "last", 2)


def test_a_twin_ends_at_the_learning_rate_of_the_kept_weights(two_networks: Run) -> None:
    outcome, _ = read_outcomes(two_networks.folder.search)["t1"]
    # twice the cases train: 4 of 6 steps become 8 of 12
    even = replace(two_networks.prepared.splits, folds=(("a", "b"), ("c",)))
    config = twin_config(outcome, replace(two_networks.prepared, splits=even), 1)
    assert (config.steps, config.stop_step) == (12, 8)
    rates = [
        learning_rate_factor("cosine", last, steps)
        for last, steps in ((outcome.epochs[1].step, 6), (config.stop_step, config.steps))
    ]
    assert rates[0] == rates[1] == pytest.approx(0.25)  # (1 + cos 120 deg) / 2


def test_a_training_that_fails_is_left_out(
    two_networks: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def jobs(configs: dict[str, object], root: Path, **_: object) -> list[str]:
        assert root == two_networks.folder.root / "folds"
        asked.extend(configs)
        return [*configs]

    def train(jobs: Sequence[TrialJob], prepared: Prepared, scratch: Path) -> object:
        ended = read_outcomes(two_networks.folder.search)["t0"][0]
        return {"t0-fold1": ended}, {"t1-fold1": "out of memory"}

    monkeypatch.setattr(folding, "jobs_for", jobs)
    monkeypatch.setattr(folding, "train_jobs", train)
    best = shortlist(read_outcomes(two_networks.folder.search), 9)
    with caplog.at_level(logging.WARNING, logger="overread"):
        found = train_folds(two_networks, best, (0, 1))
    assert asked == ["t0-fold1", "t1-fold1"]  # fold 0 is their own
    assert {trial: list(folds) for trial, folds in found.items()} == {"t0": [1], "t1": []}
    assert "training t1-fold1 failed: out of memory" in caplog.text


def test_trials_whose_teacher_saw_other_folds_are_left_out_before_the_best_are_taken(
    two_networks: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = two_networks.prepared
    seen = Seen(dataset=prepared.dataset, cases=prepared.splits.fold(0).train)  # pretrained for the fold of the search
    write_json(tmp_path / RECORD, seen.to_json() | {"earlier": [], "config": {}})
    teacher, taught = SimpleNamespace(path=str(tmp_path / "teacher.safetensors")), {0}

    def build(config: TrialConfig) -> SimpleNamespace:
        return SimpleNamespace(pretrained=lambda: (teacher,) if config.seed in taught else ())

    def train(run: Run, candidates: Sequence[Candidate], *_: object, **__: object) -> None:
        raise UserError(f"training {[candidate.choice for candidate in candidates]}")

    monkeypatch.setattr(contract, "build_segmenter", build)
    monkeypatch.setattr(selecting, "train_folds", train)
    with (
        caplog.at_level(logging.WARNING, logger="overread"),
        pytest.raises(UserError, match=r"^training \[\('t1', 'main'\)\]$"),
    ):
        select(two_networks, serial_map, most=1, candidates=1, out_of_fold=True)
    assert "1 trials are left out, since their pretrained weights have seen cases of other folds: t0" in caplog.text
    taught.add(1)
    with pytest.raises(UserError, match="the pretrained weights of all have seen cases of other folds"):
        select(two_networks, serial_map, most=1, candidates=1, out_of_fold=True)


@pytest.fixture
def cluster() -> Iterator[None]:
    with session(address="local", num_cpus=2):
        yield


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_every_case_is_read_by_the_training_that_held_it_out(two_networks: Run) -> None:
    report = select(two_networks, serial_map, most=2, out_of_fold=True)
    prepared = two_networks.prepared
    first, second = prepared.splits.folds
    assert report.folds == (0, 1)
    outcomes = {
        path.parent.name: (TrialOutcome.load(path), path.parent)
        for root in (two_networks.folder.search / "trials", two_networks.folder.root / "folds")
        for path in root.glob("*/outcome.json")
    }
    assert set(outcomes) == {"t0", "t1", "t0-fold1", "t1-fold1"}
    alone = {}
    for trial in ("t0", "t1"):
        dice = []
        for name, cases in ((trial, first), (f"{trial}-fold1", second)):
            outcome, folder = outcomes[name]
            segmenter = load_segmenter(outcome.config, folder / str(outcome.weights), "cpu")
            for case in cases:
                assert case not in prepared.splits.fold(outcome.config.fold).train
                read = predict_probabilities(segmenter, prepared, case, outcome.config, None, "cpu").astype(np.float16)
                dice.append(case_dice(read.argmax(0).astype(np.uint8), open_case(prepared, case).truth, 2).mean)
        alone[f"{trial}:main"] = float(np.mean(dice))
    assert {row.member: row.alone.mean for row in report.contributions} == pytest.approx(alone)
    assert {row.alone.n for row in report.contributions} == {len(first) + len(second)}
