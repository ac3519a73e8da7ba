import io

import pytest
from rich.console import Console

from overread.metrics.summary import summarise
from overread.review.report import EnsembleSummary, MemberRow
from overread.review.tables import Grid, classes_grid, leaderboard_grid, members_grid
from overread.tracking.winners import LeaderboardRow

ENSEMBLE = EnsembleSummary(dice=summarise([0.8, 0.9]), per_class={"organ": summarise([0.8, 0.9])})


def board(trial_id: str, dice: float | None, winner: bool = False) -> LeaderboardRow:
    return LeaderboardRow(
        trial_id=trial_id,
        architecture="unet",
        variant="main",
        state="finished",
        validation_dice=dice,
        parameters=31_042_434,
        seconds_per_case=0.25,
        winner=winner,
        run_id="r",
    )


def printed(grid: Grid) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(grid.rich())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_members_end_with_the_ensemble() -> None:
    member = MemberRow(name="unet-1", architecture="unet", variant="main", validation_dice=0.8126, locked_dice=None)
    assert members_grid([member], ENSEMBLE).markdown() == (
        "| member | architecture | variant | validation Dice | locked Dice |\n"
        "| --- | --- | --- | ---: | ---: |\n"
        "| unet-1 | unet | main | 0.813 | – |\n"  # noqa: RUF001
        "| ensemble | 1 member |  | – | 0.850 |\n"  # noqa: RUF001
    )


def test_leaderboard_marks_winners_and_says_what_it_leaves_out() -> None:
    rows = [board("a", 0.9, winner=True), board("b", 0.8), board("c", None)]
    grid = leaderboard_grid(rows, limit=2)
    assert grid.title == "Leaderboard (validation Dice), first 2 of 3"
    assert grid.rows[0] == ("*", "a", "unet", "main", "finished", "0.900", "31,042,434", "0.250")
    assert [row[0] for row in grid.rows] == ["*", ""]
    assert leaderboard_grid(rows).title == "Leaderboard (validation Dice)"


def test_classes_have_interval_and_n() -> None:
    last = classes_grid(ENSEMBLE).rows[-1]
    assert last[:2] == ("mean over classes", "0.850")
    assert last[3] == "2"
    alone = EnsembleSummary(dice=summarise([0.5]), per_class={})
    assert classes_grid(alone).rows == (("mean over classes", "0.500", "–", "1"),)  # noqa: RUF001


def test_names_with_brackets_are_not_markup() -> None:
    assert "[red]unet[/red]" in printed(Grid("t", ("a", "b"), (("[red]unet[/red]", "1"),)))


def test_bars_in_names_do_not_break_markdown() -> None:
    assert "| a\\|b | 1 |" in Grid("t", ("x", "n"), (("a|b", "1"),)).markdown()


def test_rows_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="must have 2 texts"):
        Grid("t", ("a", "b"), (("1",),))
