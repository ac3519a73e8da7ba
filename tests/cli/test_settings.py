"""From options to the settings of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from overread.cli._settings import paths, run_settings
from overread.errors import UserError

OPTIONS = {
    "data": Path("/data"), "out": Path("/out"), "cache": None, "spaces": None, "tracking_uri": None,
    "resume": False, "overwrite": True, "seed": 7, "cpus": 2, "time_budget": 60.0, "trials": None,
    "space": "panel", "architectures": "unet,unetmer", "workers_per_trial": "1, 2", "gpus_per_worker": 0.0,
    "max_concurrent": None, "points": "fit", "axis": None, "size": None, "folds": 4, "group_pattern": None,
    "reference": None, "empty_annotation": "ignore",
}  # fmt: skip


def test_options_become_settings() -> None:
    settings = run_settings(OPTIONS)
    assert settings.search.architectures == ("unet", "unetmer")
    assert settings.search.workers_per_trial == (1, 2)
    assert (settings.search.seed, settings.prepare.seed, settings.prepare.folds) == (7, 7, 4)
    assert (settings.overwrite, settings.top) == (True, 5)
    assert run_settings(OPTIONS | {"top": 3}).top == 3


@pytest.mark.parametrize(
    ("given", "greedy"),
    [
        ({}, False),
        ({"objective": "gain"}, True),
        ({"objective": "gain_and_failure", "select": None}, True),
        ({"objective": "gain", "select": "rule"}, False),
        ({"select": "greedy"}, True),
    ],
)
def test_a_search_by_gain_ends_in_a_greedy_selection(given: dict[str, str | None], greedy: bool) -> None:
    assert run_settings(OPTIONS | given).greedy == greedy


def test_the_longest_side_follows_the_device_unless_given() -> None:
    assert run_settings(OPTIONS).prepare.max_side == 96
    assert run_settings(OPTIONS | {"gpus_per_worker": 1.0}).prepare.max_side == 256
    assert run_settings(OPTIONS | {"size": 64}).prepare.max_side == 64


def test_workers_must_be_numbers() -> None:
    with pytest.raises(UserError, match="must be whole numbers"):
        run_settings(OPTIONS | {"workers_per_trial": "two"})


def test_teachers_are_absolute_and_on_a_cluster_must_be_given_so() -> None:
    with_teachers = OPTIONS | {"teachers": (Path("/dino"), Path("other"))}
    assert run_settings(with_teachers).search.teachers == ("/dino", str(Path("other").resolve()))
    assert paths(with_teachers)["teacher"] == Path("other")


def test_paths_of_a_command() -> None:
    assert paths(OPTIONS) == {"data": Path("/data"), "out": Path("/out"), "cache": None, "spaces": None}


def test_window_labels_and_locked_cases_are_read() -> None:
    plain = run_settings(OPTIONS).prepare
    assert (plain.window, plain.labels, plain.locked_pattern) == (None, None, None)
    given = run_settings(OPTIONS | {"window": "-125,275", "labels": "1,2,11", "locked_pattern": "1$"}).prepare
    assert (given.window, given.labels, given.locked_pattern) == ((-125.0, 275.0), (1, 2, 11), "1$")
    for name, wrong in (("window", "1"), ("window", "a,b"), ("labels", "1,x")):
        with pytest.raises(UserError, match=f"--{name} must be"):
            run_settings(OPTIONS | {name: wrong})
