import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overread.cluster.job import TrialJob, failed_outcome
from overread.cluster.session import Resources
from overread.ensemble.gain import Gain
from overread.errors import UserError
from overread.records import Prepared, TrialOutcome, VariantScore
from overread.search.clock import SearchClock
from overread.search.opening import Search, first_points, make_searcher, open_search, time_left
from overread.search.searcher import JobSearch
from overread.search.settings import SearchSettings
from overread.testing.search import fast_timer
from overread.testing.tiny import tiny_prepared
from overread.training.seeds import derived_seed

HERE = Resources(cpus=2, gpus=0.0, nodes=1, cpus_per_node=2)
SETTINGS = SearchSettings(space="unet", trials=8, steps=40, epochs=4, seed=7)

SPACE = """
POINTS = [{"unet/norm": "none"}]
def suggest(trial, context):
    norm = trial.suggest_categorical("unet/norm", ["batch", "instance"])
    return {"options": {"norm": norm, "width": trial.suggest_categorical("unet/width", list(context.widths["unet"]))}}
"""
"""A space whose point does not lie in it."""


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "data")


def opened(prepared: Prepared, out: Path, settings: SearchSettings = SETTINGS) -> Search:
    return open_search(prepared, out, settings, HERE, fast_timer)


def give(searcher: JobSearch, name: str) -> TrialJob:
    return TrialJob.from_json(json.loads(searcher.suggest(name)["job"]))


def test_the_first_point_of_the_plain_network_is_the_baseline(prepared: Prepared, tmp_path: Path) -> None:
    searcher = make_searcher(opened(prepared, tmp_path / "s"))
    first, second = give(searcher, "a"), give(searcher, "b")
    assert (first.config.baseline, first.protected, first.config.augment.flip) == (True, True, True)
    assert (second.config.baseline, second.protected, second.config.augment.flip) == (False, False, False)


def test_another_network_is_no_baseline_when_the_first_point_failed(prepared: Prepared, tmp_path: Path) -> None:
    searcher = make_searcher(opened(prepared, tmp_path / "s"))
    first = give(searcher, "a")
    failed_outcome(first, "nan_loss")
    searcher.on_trial_complete("a", {})
    second = give(searcher, "b")
    # the next of the family runs to its end, but is not what the ensemble is compared with
    assert (second.config.baseline, second.protected) == (False, True)
    # the same point once more is
    searcher.on_trial_complete("b", None, error=True)
    for name in ("c", "d"):
        give(searcher, name)
        searcher.on_trial_complete(name, None, error=True)
    searcher.study.enqueue_trial(searcher.study.trials[0].params)
    again = give(searcher, "e")
    assert (again.config.baseline, again.protected, again.number) == (True, True, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"objective": "gain"}, 1),
        ({"objective": "gain", "points_per_family": 2}, 2),
        ({"points_per_family": 1}, 1),
    ],
)
def test_with_gain_only_the_first_point_of_each_family_is_given(
    prepared: Prepared, tmp_path: Path, changes: dict[str, Any], expected: int | None
) -> None:
    settings = replace(SETTINGS, space="panel", architectures=("unet", "unetmer"), **changes)
    search = opened(prepared, tmp_path / "s", settings)
    families = [point["architecture"] for point in first_points(search)]
    every = [point["architecture"] for point in search.module.POINTS]
    for family in ("unet", "unetmer"):
        assert families.count(family) == (expected or every.count(family)) > 0
    waiting = [trial.system_attrs["fixed_params"] for trial in make_searcher(search).study.trials]
    assert waiting == list(first_points(search))


def test_a_point_that_a_killed_driver_lost_comes_first(prepared: Prepared, tmp_path: Path) -> None:
    before = make_searcher(opened(prepared, tmp_path / "s"))
    before.study.ask()  # and killed before the job was written
    after = make_searcher(opened(prepared, tmp_path / "s", replace(SETTINGS, resume=True)))
    first, second = give(after, "a"), give(after, "b")
    assert (first.number, first.config.baseline, first.config.augment.flip) == (0, True, True)
    assert (second.number, second.config.baseline, second.config.augment.flip) == (1, False, False)


def test_seeds_of_neighbouring_searches_differ(prepared: Prepared, tmp_path: Path) -> None:
    seeds = {}
    for seed in (7, 8):
        searcher = make_searcher(opened(prepared, tmp_path / str(seed), replace(SETTINGS, seed=seed)))
        seeds[seed] = [give(searcher, name).config.seed for name in ("a", "b")]
    assert seeds[7] == [derived_seed(7, 0) >> 32, derived_seed(7, 1) >> 32]
    assert len({*seeds[7], *seeds[8]}) == 4
    assert all(0 <= seed < 2**31 for pair in seeds.values() for seed in pair)


def test_a_finished_search_starts_nothing_when_resumed(prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, trials=None, time_budget_s=100.0, seconds_per_trial=10.0)
    now = 0.0
    search = replace(
        opened(prepared, tmp_path / "s", settings),
        clock=SearchClock(path=tmp_path / "s" / "clock.json", budget=100.0, least=10.0, now=lambda: now),
    )
    # 95 s may train: 5 % are kept for evaluation; a trial starts with at least 6 of its 10 s
    now = 89.0
    assert time_left(search, given=1)
    now = 89.5
    assert not time_left(search, given=1)
    search.clock.save()
    resumed = opened(prepared, tmp_path / "s", replace(settings, resume=True))
    assert resumed.clock.used_before == 89.5
    assert not time_left(resumed, given=1)
    # an unfinished trial would still get its seconds
    assert resumed.clock.end is not None and resumed.clock.end - resumed.clock.started == pytest.approx(10.5)


def test_nothing_is_written_before_everything_is_checked(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "s"
    (tmp_path / "unet.py").write_text(SPACE)
    for wrong in (replace(SETTINGS, space="nothing"), replace(SETTINGS, workers_per_trial=(3,))):
        with pytest.raises(UserError):
            opened(prepared, out, wrong)
    with pytest.raises(UserError, match="points of a space must lie in it"):
        opened(prepared, out, replace(SETTINGS, spaces_dir=str(tmp_path)))
    assert not out.exists()


def test_a_trial_whose_gain_was_not_measured_is_given_out_again(prepared: Prepared, tmp_path: Path) -> None:
    settings = replace(SETTINGS, objective="gain")
    job = give(make_searcher(opened(prepared, tmp_path / "s", settings)), "a")
    assert job.by_gain
    score = VariantScore(variant="main", dice=0.8, dice_per_class={}, cases=1, seconds_per_case=0.0)
    outcome = TrialOutcome(trial_id=job.trial_id, config=job.config, state="finished", variants=(score,))
    outcome.save(job.path / "outcome.json")  # and killed before it was measured
    resumed = replace(settings, resume=True)
    assert give(make_searcher(opened(prepared, tmp_path / "s", resumed)), "a").trial_id == job.trial_id
    Gain(members=(), dice=0.8, gain=0.0, error=0.0, aurc=0.2, aurc_gain=0.0).save(job.path / "gain.json")
    again = make_searcher(opened(prepared, tmp_path / "s", resumed))
    assert again.study.trials[0].value == 0.0  # what it adds to nothing, not its Dice
    assert give(again, "a").number == 1
    with pytest.raises(UserError, match="objective changed"):
        opened(prepared, tmp_path / "s", replace(resumed, objective="dice"))
