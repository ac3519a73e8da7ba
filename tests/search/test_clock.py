from pathlib import Path

from overread.search.clock import SearchClock


def test_time_runs_on_over_sessions(tmp_path: Path) -> None:
    now = 1000.0
    clock = SearchClock(path=tmp_path / "clock.json", budget=100.0, now=lambda: now)
    # 5 of the 100 seconds are kept for the last evaluations
    assert (clock.end, clock.last_step, clock.remaining) == (1100.0, 1095.0, 95.0)
    now = 1030.0
    assert (clock.used, clock.remaining) == (30.0, 65.0)
    clock.save()
    now = 5000.0
    resumed = SearchClock(path=tmp_path / "clock.json", budget=100.0, now=lambda: now)
    assert (resumed.used, resumed.end) == (30.0, 5070.0)


def test_a_resumed_search_gets_time_for_the_trials_it_left(tmp_path: Path) -> None:
    now = 1000.0
    clock = SearchClock(path=tmp_path / "clock.json", budget=50.0, now=lambda: now)
    now = 1049.0
    clock.save()
    resumed = SearchClock(path=tmp_path / "clock.json", budget=50.0, least=20.0, now=lambda: now)
    # 5 % of 50 s would be less than the 4 s kept for evaluation
    assert (resumed.end, resumed.last_step) == (1069.0, 1065.0)
    # but no fresh trial: of the 50 s 1 is left, and 4 are kept
    assert (resumed.last_fresh_step, resumed.remaining) == (1046.0, -3.0)


def test_without_a_budget_there_is_no_end(tmp_path: Path) -> None:
    clock = SearchClock(path=tmp_path / "clock.json", budget=None)
    assert (clock.end, clock.last_step, clock.last_fresh_step) == (None, None, None)
    assert clock.remaining == float("inf")
