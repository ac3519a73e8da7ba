from pathlib import Path

import pytest

from overread.errors import UserError
from overread.records import TrialConfig
from overread.search.budget import (
    BudgetPlan,
    candidate_widths,
    dry_run,
    epochs_for,
    make_context,
    plan,
    share_cpus,
    trial_seconds,
)
from overread.search.settings import SearchSettings
from overread.testing.tiny import tiny_prepared


def by_width(config: TrialConfig) -> float:
    """10 ms at width 8, four times that at twice the width; half of it for half the batch of 8."""
    return 0.01 * (config.options["width"] / 8) ** 2 * config.batch_size / 8


def test_three_trainings_of_each_family_fill_the_budget() -> None:
    assert trial_seconds(900.0, 2, 3, None) == 200.0  # 900 * 2 / 9
    assert trial_seconds(60.0, 1, 3, None) == 20.0  # not below 20 s
    assert trial_seconds(1e6, 1, 1, None) == 1800.0  # not above half an hour
    assert trial_seconds(None, 2, 3, 5) == 60.0
    # 4 trials two at a time are 2 rounds of 50 s; 5 are 3 rounds
    assert trial_seconds(100.0, 2, 3, 4) == 50.0
    assert trial_seconds(150.0, 2, 3, 5) == 50.0
    # trials of one and two workers in turn on two CPUs: 4/3 at once
    assert trial_seconds(270.0, 2 / 1.5, 3, None) == 40.0


def test_validations_by_seconds() -> None:
    assert [epochs_for(seconds) for seconds in (10.0, 40.0, 64.0, 500.0)] == [4, 5, 8, 10]


@pytest.mark.parametrize(
    ("fields", "cpus", "gpus", "expected"),
    [
        ({}, 2, 0.0, (2, 2, 1)),
        ({"max_concurrent": 1}, 2, 0.0, (1, 1, 2)),
        ({"workers_per_trial": (2,)}, 2, 0.0, (1, 2, 1)),
        ({"workers_per_trial": (1, 2)}, 2, 0.0, (2, 2, 1)),
        ({}, 16, 0.0, (8, 8, 2)),
        ({}, 64, 0.0, (9, 9, 7)),  # never more than the nine trainings of three families
        ({"gpus_per_worker": 0.5}, 8, 2.0, (4, 4, 2)),
    ],
)
def test_cpus_are_shared(fields: dict[str, object], cpus: int, gpus: float, expected: tuple[int, int, int]) -> None:
    assert share_cpus(SearchSettings(trials=1, **fields), cpus, gpus, most=9) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "cpus", "per_node", "expected"),
    [
        ({"max_concurrent": 1}, 8, 4, (1, 1, 4)),  # one trial of 8 threads fits no node
        ({"max_concurrent": 3}, 6, 3, (3, 3, 1)),  # of 2 threads only one fits each of two nodes
        ({"max_concurrent": 3}, 8, 4, (3, 3, 2)),
    ],
)
def test_threads_fit_a_node(fields: dict[str, int], cpus: int, per_node: int, expected: tuple[int, int, int]) -> None:
    settings = SearchSettings(trials=1, **fields)  # type: ignore[arg-type]
    assert share_cpus(settings, cpus, 0.0, most=9, cpus_per_node=per_node) == expected


def test_more_workers_than_cpus_are_refused() -> None:
    with pytest.raises(UserError, match="3 workers share 2 CPUs"):
        share_cpus(SearchSettings(trials=1, workers_per_trial=(1, 3)), 2, 0.0, most=9)


def test_candidates_end_at_the_published_width() -> None:
    assert candidate_widths(32) == (8, 12, 16, 24, 32)
    assert candidate_widths(20) == (8, 12, 16, 20)
    assert candidate_widths(None) == (8, 12, 16, 24, 32, 48, 64)


def test_the_batch_shrinks_where_the_smallest_width_does_not_fit(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path)
    # 40 s of training for 5,000 steps: 8 ms a step; width 8 takes 10 ms with 8 samples, 5 ms with 4
    settings = SearchSettings(time_budget_s=225.0, min_steps=5_000)
    made = plan(prepared, settings, cpus=2, timer=by_width)
    assert (made.widths["unet"], made.batch_sizes["unet"], made.step_seconds["unet"]) == ((8,), 4, 0.005)
    # for 50,000 steps nothing fits: the smallest sizes are taken
    settings = SearchSettings(time_budget_s=225.0, min_steps=50_000)
    made = plan(prepared, settings, cpus=2, timer=by_width)
    assert (made.widths["unet"], made.batch_sizes["unet"]) == ((8,), 4)


def test_widths_fit_the_seconds(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path)
    settings = SearchSettings(time_budget_s=225.0, architectures=("unet", "unetmer", "unet_sharp"), min_steps=400)
    made = plan(prepared, settings, cpus=2, timer=by_width)
    # 225 * 2 / 9 = 50 s per trial, 40 s of training, 0.1 s per step: width 24 (0.09 s) fits, 32 (0.16 s) does not
    assert (made.seconds_per_trial, made.train_seconds, made.epochs) == (50.0, 40.0, 5)
    assert made.widths == {"unet": (16, 24), "unetmer": (16, 24), "unet_sharp": (16, 24)}
    assert made.batch_sizes == {"unet": 8, "unetmer": 8, "unet_sharp": 8}
    assert made.step_seconds["unet"] == pytest.approx(0.09)
    assert BudgetPlan.from_json(made.to_json()) == made
    assert make_context(prepared, made).widths == made.widths
    (first, *_) = dry_run(made)
    # 9 trials, 3 of each family; int(40 / 0.09) = 444 steps; 3 * 50 s = 2.5 minutes
    assert (first.trials, first.steps_per_trial, first.minutes) == (3, 444, 2.5)


def test_a_trial_sees_every_slice_often_enough(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path)
    slices = sum(case.shape[0] for case in prepared.cases if case.id in prepared.splits.fold(0).train)
    # 40 s of training; 800 steps of 8 samples: 0.05 s a step, so width 16 (0.04 s) fits and 24 (0.09 s) does not
    settings = SearchSettings(time_budget_s=225.0, min_steps=400, min_passes=800 * 8 / slices)
    made = plan(prepared, settings, cpus=2, timer=by_width)
    assert (made.widths["unet"], made.batch_sizes["unet"]) == ((12, 16), 8)
    # passes alone never shrink the batch: smaller batches see no more samples
    settings = SearchSettings(time_budget_s=225.0, min_steps=400, min_passes=10**6)
    made = plan(prepared, settings, cpus=2, timer=by_width)
    assert (made.widths["unet"], made.batch_sizes["unet"]) == ((8,), 8)


def test_the_smallest_width_is_taken_when_none_fits(tmp_path: Path) -> None:
    settings = SearchSettings(space="unet", trials=2, seconds_per_trial=1.0)
    made = plan(tiny_prepared(tmp_path), settings, timer=lambda config: 9.0)
    assert made.widths == {"unet": (8,)}


def test_published_points_have_the_published_width_whatever_it_costs(tmp_path: Path) -> None:
    settings = SearchSettings(space="unet_sharp", trials=2, points="published")
    assert plan(tiny_prepared(tmp_path), settings, timer=lambda config: 9.0).widths == {"unet_sharp": (32,)}


def test_the_timer_of_training_times_a_real_step(tmp_path: Path) -> None:
    settings = SearchSettings(space="unet", trials=1, seconds_per_trial=1.0, min_steps=10**6)
    made = plan(tiny_prepared(tmp_path), settings)
    assert made.widths == {"unet": (8,)}
    assert 0.0 < made.step_seconds["unet"] < 5.0
