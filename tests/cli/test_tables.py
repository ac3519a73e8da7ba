"""Tables of the terminal: what their cells say, undefined values too."""

from __future__ import annotations

import pytest

from overread.cli._tables import architecture_grid, leaderboard_grid, plan_grid, show, summary_grids
from overread.confidence.coverage import Correlation
from overread.metrics.summary import Summary
from overread.pipeline.summary import EnsembleFigures, Generalisation, RunSummary
from overread.review.tables import Grid
from overread.search.budget import PlannedFamily
from overread.tracking.winners import LeaderboardRow


def row(
    trial: str,
    dice: float | None = 0.9,
    *,
    cases: int | None = None,
    expected: float | None = None,
    member: bool = False,
    gain: float | None = None,
    joined: bool = False,
) -> LeaderboardRow:
    return LeaderboardRow(
        trial_id=trial,
        architecture="unet",
        variant="main",
        state="finished",
        validation_dice=dice,
        parameters=1200,
        seconds_per_case=0.5,
        winner=False,
        run_id="r",
        cases=cases,
        member=member,
        expected_dice=expected,
        gain=gain,
        joined=joined,
    )


def test_the_leaderboard_tells_cases_expectation_and_members() -> None:
    rows = [row("a", cases=8, expected=0.875, member=True), row("b", None)]
    grid = leaderboard_grid(rows, limit=2)
    assert grid.columns[-3:] == ("n", "expected", "member")
    assert [text[-3:] for text in grid.rows] == [("8", "0.875", "*"), ("–", "–", "")]  # noqa: RUF001
    assert len(leaderboard_grid(rows, limit=1).rows) == 1


def test_the_leaderboard_of_a_search_by_gain_tells_gains_and_who_joined() -> None:
    grid = leaderboard_grid([row("a", gain=0.0125, joined=True), row("b", gain=-0.5), row("c", None)], limit=3)
    assert grid.columns[-2:] == ("gain", "joined")
    assert [text[-2:] for text in grid.rows] == [("+0.0125", "*"), ("-0.5000", ""), ("", "")]


def test_a_planned_search_is_told_in_milliseconds_and_minutes() -> None:
    family = PlannedFamily(
        architecture="unet",
        widths=(8, 16),
        batch_size=4,
        step_seconds=0.0126,
        steps_per_trial=300,
        trials=3,
        minutes=0.19,
    )
    assert plan_grid([family]).rows == (("unet", "8, 16", "4", "13", "300", "3", "0.2"),)


def test_networks_are_listed_with_what_their_count_holds_for() -> None:
    entry = {"name": "unet", "paper": "p", "axes": ["scale", "level"], "parameters": 31042434, "in_channels": 1}
    (cells,) = architecture_grid([entry | {"classes": 2, "size": [256, 256]}]).rows
    assert cells == ("unet", "p", "scale, level", "31,042,434", "1 to 2 classes, 256x256")


def test_intervals_stand_behind_their_values_where_there_are_any() -> None:
    def figures(mean: float, low: float | None = None, high: float | None = None) -> Summary:
        return Summary(mean=mean, sd=None, n=4, low=low, high=high)

    apart = Generalisation(validation=figures(0.9), locked=figures(0.8, 0.7, 0.85), difference=figures(-0.1, -0.2, 0.0))
    summary = RunSummary(
        dataset="set",
        members=(),
        ensemble=EnsembleFigures(locked_dice=0.8, locked_dice_per_class={"organ": None}, n=4, per_class_n={"organ": 0}),
        confidence={"pairwise_dice": Correlation(spearman=0.5, pearson=None, n=4)},
        generalisation={"ensemble": apart},
    )
    tables = {grid.title: grid.rows for grid in summary_grids(summary)}
    assert tables["Validation and locked split"] == (
        ("ensemble", "0.900", "4", "0.800 (0.700 to 0.850)", "4", "-0.1000 (-0.2000 to +0.0000)"),
    )
    assert tables["Members on set"] == (("ENSEMBLE", "0 members", "", "–", "0.800"),)  # noqa: RUF001
    assert tables["Ensemble Dice on the locked split"] == (("organ", "–", "0"), ("mean", "0.800", "4"))  # noqa: RUF001
    assert tables["Confidence"] == (("pairwise dice", "true Dice", "0.500", "–", "4"),)  # noqa: RUF001
    assert not {"Members on the locked split, paired Wilcoxon", "Lower bound of Dice on the locked split"} & set(tables)


def test_tables_in_a_log_keep_their_lines_whole_and_in_a_narrow_terminal_their_texts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(f"a-long-name-{i}" for i in range(12))
    monkeypatch.delenv("COLUMNS", raising=False)
    show([Grid("Names", names, (names,))])
    assert any(all(name in line for name in names) for line in capsys.readouterr().out.splitlines())
    monkeypatch.setenv("COLUMNS", "80")
    show([Grid("Names", names, (names,))])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) == 80
