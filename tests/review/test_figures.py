"""Figures: what a reader would otherwise have to guess."""

from matplotlib.figure import Figure

from overread.review import figures


def test_marks_of_whole_numbers_are_whole() -> None:
    whole, parts = Figure().subplots(1, 2)
    figures.lines(whole, {"loss": [(1.0, 5.0), (2.0, 4.0), (3.0, 4.5)]}, "curve", "epoch", "nats")
    assert all(mark == int(mark) for mark in whole.get_xticks())
    figures.lines(parts, {"Dice": [(0.5, 80.0), (1.0, 70.0), (1.5, 60.0)]}, "curve", "share", "Dice")
    assert 0.5 in [round(float(mark), 3) for mark in parts.get_xticks()]
