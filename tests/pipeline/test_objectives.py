"""Searches by Dice and by gain at equal budget, through Ray, on a small phantom."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from overread.cluster.contribution import current_members, renewed_gains
from overread.cluster.session import session
from overread.cluster.tasks import ray_map
from overread.confidence.failure_detection import Estimate, PairedDifference
from overread.data.locked_uses import locked_uses
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import find_prepared, serial_map
from overread.ensemble.contribution import ErrorCorrelation
from overread.ensemble.gain import GAIN, Gain
from overread.errors import UserError
from overread.jsonio import read_json
from overread.metrics.summary import Summary
from overread.pipeline import choosing, objectives, stages
from overread.pipeline.folders import RunFolder
from overread.pipeline.objectives import (
    BenchSettings,
    ObjectiveResult,
    compare_objectives,
    mean_correlation,
    objective_grids,
)
from overread.records import PrepareSettings, Winners
from overread.search.leaderboard import read_outcomes
from overread.search.settings import SearchSettings

TRIALS = 4


def settings(data: Path, cache: Path, **search: object) -> BenchSettings:
    given = {"architectures": ("unet",), "trials": TRIALS, "seconds_per_trial": 1.0, "steps": 8, "epochs": 1, "cpus": 2}
    return BenchSettings(
        data=str(data),
        cache=str(cache),
        prepare=PrepareSettings(folds=3, max_side=32),
        search=SearchSettings(**(given | search)),  # type: ignore[arg-type]
        top=3,
    )


def test_the_correlation_of_members_is_that_of_their_pairs() -> None:
    rows = ((1.0, 0.5, None), (0.5, 1.0, 0.1), (None, 0.1, None))
    errors = ErrorCorrelation(members=("a", "b", "c"), by_case=rows, by_voxel=rows)
    assert mean_correlation(errors) == pytest.approx(0.3)
    assert mean_correlation(errors.among(["a"])) is None


def test_tables_tell_differences_to_the_first_objective() -> None:
    def dice(mean: float) -> Summary:
        return Summary(mean=mean, sd=0.1, n=9, low=mean - 0.1, high=mean + 0.1)

    first = ObjectiveResult(
        objective="dice",
        trials={"unet": 3, "unetmer": 1, "finished": 3, "stopped": 1},
        seconds=61.4,
        members=("unet-0", "unet-1"),
        families=("unet",),
        error_correlation=0.5,
        validation=dice(0.9),
        locked=dice(0.8),
        validation_aurc=Estimate(value=0.05, low=None, high=None),
        locked_aurc=Estimate(value=0.125, low=0.1, high=0.2),
        difference=dice(0.0),
        aurc_difference=PairedDifference(
            first=0.1, second=0.1, difference=Estimate(value=0.0, low=0.0, high=0.0), relative_high=0.0, n=9
        ),
    )
    other = replace(
        first, objective="gain", difference=dice(0.02), error_correlation=None, families=("unet", "unetmer")
    )
    ensembles, differences, searches = objective_grids([first, other])
    assert ensembles.rows[0] == (
        "dice", "0.9000 (0.8000 to 1.0000)", "0.8000 (0.7000 to 0.9000)", "0.0500", "0.1250 (0.1000 to 0.2000)",
        "2", "unet", "0.500",
    )  # fmt: skip
    assert ensembles.rows[1][-2:] == ("unet, unetmer", "–")  # noqa: RUF001
    assert differences.rows == (("gain", "+0.0200 (-0.0800 to +0.1200)", "+0.0000 (+0.0000 to +0.0000)"),)
    assert searches.rows[0] == ("dice", "3", "1", "0", "61", "unet-0, unet-1")


def test_a_benchmark_keeps_its_settings_and_takes_no_folder_of_others(tmp_path: Path) -> None:
    given = settings(tmp_path / "data", tmp_path / "cache")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds something else"):
        compare_objectives(tmp_path / "mine", given, serial_map)
    told = replace(given, search=replace(given.search, points_per_family=1))
    told.save(tmp_path / "out" / "bench.json")
    other = replace(given, top=4, search=replace(given.search, trials=9))
    with pytest.raises(UserError, match="but top, trials changed"):
        compare_objectives(tmp_path / "out", other, serial_map)


@pytest.mark.ray
def test_a_search_by_gain_beside_one_by_dice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_phantom(tmp_path / "data", PhantomSettings(cases=24, size=32, seed=3))
    given, out = settings(data, tmp_path / "cache"), tmp_path / "out"
    with session(address="local", num_cpus=2), caplog.at_level(logging.WARNING, logger="overread"):
        first, second = compare_objectives(out, given, ray_map, objectives=["gain"])
        for name in ("search", "read_labelled"):
            monkeypatch.setattr(stages, name, lambda *_, **__: pytest.fail("must not be done again"))
        monkeypatch.setattr(objectives, "assemble_greedily", lambda *_, **__: pytest.fail("must not be done again"))
        assert compare_objectives(out, given, ray_map, objectives=["gain"]) == (first, second)
        assert compare_objectives(out, given, ray_map, objectives=["dice"]) == (first, second)  # stays in the tables
        with pytest.raises(UserError, match="has its figures and no search by gain_and_failure"):
            compare_objectives(out, given, ray_map)
    assert [result.objective for result in (first, second)] == ["dice", "gain"]
    assert first.difference.mean == 0.0 and first.aurc_difference.difference.value == 0.0
    assert not [record.message for record in caplog.records if "gain" in record.message]

    folder = RunFolder(out / "gain")
    outcomes = read_outcomes(folder.search)
    assert sum(second.trials.get(state, 0) for state in ("finished", "stopped")) == len(outcomes) == TRIALS
    finished = [trial for trial, (outcome, _) in outcomes.items() if outcome.state == "finished"]
    gains = {trial: Gain.load(folder.search / "trials" / trial / GAIN) for trial in finished}
    members = current_members(folder.search)
    assert members and set(members) <= set(finished)
    assert gains[members[0]].members == ()
    assert renewed_gains(folder.search).members in [members[:n] for n in range(len(members) + 1)]
    rows = {row.trial_id: row for row in choosing.leaderboard(folder, top=3)}
    assert {trial: rows[trial].gain for trial in finished} == pytest.approx({t: g.gain for t, g in gains.items()})
    assert {trial for trial, row in rows.items() if row.joined} == set(members)
    assert not (out / "dice" / "search" / "ensemble.json").exists()

    assert read_json(out / "dice" / "search" / "plan.json") == read_json(folder.search / "plan.json")
    assert Winners.load(folder.winners).rule.startswith("greedy") and len(second.members) == 3
    prepared = find_prepared(data, given.prepare, tmp_path / "cache")
    assert prepared is not None
    assert [Path(use["run"]).name for use in locked_uses(tmp_path / "cache", prepared)] == ["dice", "gain"]
    assert len(list((out / "tables").glob("*.csv"))) == 3 and "## Ensembles" in (out / "report.md").read_text()
