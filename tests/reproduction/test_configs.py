"""From rows to configs: seeds differ in nothing else, and what is read is what no row trained on."""

from dataclasses import replace
from pathlib import Path

import pytest

from overread.cluster.job import TrialJob
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import prepare_dataset
from overread.reproduction.configs import measuring_key, prepare_settings, row_config
from overread.reproduction.failure import PROTOCOLS
from overread.reproduction.paper import PAPERS, Row
from overread.reproduction.program import RESULT, RowTraining, held_out
from overread.reproduction.results import RowResult
from overread.testing.tiny import tiny_config


def test_rows_of_an_ensemble_of_seeds_differ_in_the_seed_alone(tmp_path: Path) -> None:
    data = write_phantom(tmp_path / "phantom", PhantomSettings(cases=20, size=32, seed=1))
    protocol = PROTOCOLS["small"]
    prepared = prepare_dataset(data, prepare_settings(protocol, 7), tmp_path / "cache")
    first, second = (row_config(Row(name="U", architecture="unet", seed=n), protocol, prepared, 7) for n in (0, 4))
    assert (first.seed, second.seed) == (7, 11) and replace(second, seed=7) == first
    splits = prepared.splits
    assert len(splits.locked) == 4 and len(splits.calibration) == 3  # 20 % and 15 % of 20
    assert held_out(protocol, prepared, 0) == (*splits.locked, *splits.calibration, *splits.folds[0])
    assert held_out(replace(protocol, read_all=False), prepared, 0) == splits.locked
    assert held_out(replace(protocol, cross_validated=True), prepared, 1) == splits.folds[1]


@pytest.mark.parametrize("change", ["nothing", "options", "anchors", "measures"])
def test_a_test_is_found_again_only_if_it_would_be_done_alike(tmp_path: Path, change: str) -> None:
    paper, row = PAPERS["relation_unet"], Row(name="U", architecture="unet", read_options={"passes": 200})
    protocol = paper.protocols["small"]
    job = TrialJob(trial_id="u", number=0, folder=str(tmp_path), config=tiny_config())
    done = measuring_key(row, paper, protocol)
    result = RowResult(row="U", parameters=1, steps=1, seconds=1.0, epochs=(), cases=(), measured=done)
    result.save(tmp_path / RESULT)
    now = {
        "nothing": done,
        "options": measuring_key(replace(row, read_options={"passes": 100}), paper, protocol),
        "anchors": measuring_key(row, paper, replace(protocol, anchors=21)),
        "measures": measuring_key(row, replace(paper, measures=1), protocol),
    }[change]
    assert RowTraining(row, job, now).result == (result if change == "nothing" else None)


def test_tests_of_before_there_was_a_key_hold_where_all_is_as_usual() -> None:
    paper = PAPERS["relation_unet"]
    plain = Row(name="U", architecture="unet")
    assert measuring_key(plain, paper, paper.protocols["paper"]) == ""
    assert measuring_key(plain, paper, paper.protocols["small"]) != ""  # read with fewer anchors
