import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from overread.review.tables import Grid, leaderboard_grid, write_tables
from overread.tracking.winners import LeaderboardRow


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


def test_markdown_and_csv_hold_the_same_texts() -> None:
    grid = Grid("t", ("member", "Dice"), (("unet, wide", "0.813"), ("ENSEMBLE", "0.850")))
    assert grid.markdown() == "| member | Dice |\n| --- | ---: |\n| unet, wide | 0.813 |\n| ENSEMBLE | 0.850 |\n"
    assert grid.csv() == 'member,Dice\n"unet, wide",0.813\nENSEMBLE,0.850\n'


def test_tables_are_written_in_their_order(tmp_path: Path) -> None:
    grids = [Grid("Dice, 95 % (n = 3)", ("a",), (("1",),)), Grid("AURC", ("b",), ())]
    parts = write_tables(grids, tmp_path)
    names = ["01-dice-95-n-3.csv", "01-dice-95-n-3.md", "02-aurc.csv", "02-aurc.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / names[0]).read_text() == "a\n1\n"
    assert parts[1] == (tmp_path / names[3]).read_text() == "## AURC\n\n| b |\n| --- |\n"


def test_leaderboard_marks_winners_and_says_what_it_leaves_out() -> None:
    rows = [board("a", 0.9, winner=True), board("b", 0.8), board("c", None)]
    grid = leaderboard_grid(rows, limit=2)
    assert grid.title == "Leaderboard (validation Dice), first 2 of 3"
    assert grid.rows[0] == ("*", "a", "unet", "main", "finished", "0.900", "31,042,434", "0.250")
    assert [row[0] for row in grid.rows] == ["*", ""]
    assert leaderboard_grid(rows).title == "Leaderboard (validation Dice)"


def test_names_with_brackets_are_not_markup() -> None:
    assert "[red]unet[/red]" in printed(Grid("t", ("a", "b"), (("[red]unet[/red]", "1"),)))


def test_bars_in_names_do_not_break_markdown() -> None:
    assert "| a\\|b | 1 |" in Grid("t", ("x", "n"), (("a|b", "1"),)).markdown()


def test_rows_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="must have 2 texts"):
        Grid("t", ("a", "b"), (("1",),))


def test_a_note_stands_below_its_table() -> None:
    grid = Grid("Dice", ("case", "Dice"), (("a", "0.5"),), note="Of one case.")
    assert grid.markdown().endswith("| a | 0.5 |\n\nOf one case.\n")
    assert grid.rich().caption == "Of one case." and "Of one case." not in grid.csv()
    assert replace(grid, note="").rich().caption is None
