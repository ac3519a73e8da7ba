"""Results of rows: summaries over what is defined, and paired differences, by hand."""

from dataclasses import replace

import pytest

from overread.records import EpochReport
from overread.reproduction.results import CaseMeasures, RowResult


def row(name: str, *dice: float | None, foreground: tuple[bool, ...] = ()) -> RowResult:
    cases = tuple(
        CaseMeasures(case=f"c{i}", group=f"p{i // 2}", has_foreground=f, values={"dice": value})
        for i, (value, f) in enumerate(zip(dice, foreground or (True,) * len(dice), strict=True))
    )
    return RowResult(row=name, parameters=1, steps=1, seconds=1.0, epochs=(), cases=cases)


def test_undefined_values_and_normal_cases_are_left_out_with_their_n() -> None:
    result = row("a", 0.5, None, 1.0, 0.9, foreground=(True, True, False, True))
    everything = result.summary("dice")
    assert (everything.mean, everything.n) == (pytest.approx(0.8), 3)
    foreground = result.summary("dice", foreground_only=True)
    assert (foreground.mean, foreground.n) == (pytest.approx(0.7), 2)
    assert foreground.sd == pytest.approx(0.08**0.5)  # (0.2^2 + 0.2^2) / (2 - 1)
    assert result.summary("jaccard").n == 0
    assert result.values("dice") == [0.5, 1.0, 0.9]


def test_rows_are_compared_on_the_cases_of_both() -> None:
    better, worse = row("a", 0.9, 0.8, None, 0.6), row("b", 0.7, 0.7, 0.1, 0.6)
    found = better.compared(worse)
    assert (found.mean, found.n) == (pytest.approx(0.1), 3)  # 0.2, 0.1 and 0.0
    assert found.low is not None and found.high is not None and found.low <= 0.1 <= found.high
    assert RowResult.from_json(better.to_json()) == better


def report(loss: float) -> EpochReport:
    return EpochReport(epoch=1, step=4, progress=100, seconds=1.0, metrics={"train_loss": loss})


def test_folds_are_joined_and_averaged() -> None:
    folds = [replace(row("a", *dice), seconds=2.0) for dice in ((0.5, 0.7), (0.9, None))]
    cases = [tuple(replace(c, fold=fold) for c in part.cases) for fold, part in enumerate(folds)]
    curves = [(report(loss),) for loss in (1.0, 3.0)]
    parts = [replace(p, cases=c, epochs=e) for p, c, e in zip(folds, cases, curves, strict=True)]
    joined = RowResult.of_folds(parts)
    assert joined.seconds == 4.0 and len(joined.cases) == 4
    assert joined.fold_means("dice") == pytest.approx([0.6, 0.9])
    assert joined.epochs[0].metrics == {"train_loss": 2.0}
    assert joined.with_dice("other").values("dice") == []
