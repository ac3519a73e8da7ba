"""Selection among rows on readings worked by hand: two rows see the truth, four see nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from overread.data.corruptions import conditions
from overread.data.phantom import PhantomSettings, write_phantom
from overread.data.prepare import MapCases, prepare_dataset
from overread.data.store import open_case
from overread.ensemble.readings import encode, write_readings
from overread.records import Prepared, PrepareSettings
from overread.reproduction import failure_selection
from overread.reproduction.failure_readings import conditions_of, readings_of
from overread.reproduction.failure_selection import ALL, GREEDY, SINGLE, TOP, chosen_rows, select_rows, selection_tables
from overread.reproduction.results import Findings
from overread.review.words import NOTHING

SEEING, BLIND = ("s1", "s2"), ("b1", "b2", "b3", "b4")


def here(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
    return [function(item) for item in items]


def never(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
    raise AssertionError("nothing must be read")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    data = write_phantom(folder / "phantom", PhantomSettings(cases=10, size=32, classes=2, seed=1))
    return prepare_dataset(data, PrepareSettings(max_side=32, folds=2), folder / "cache")


@pytest.fixture
def findings(prepared: Prepared, tmp_path: Path) -> Findings:
    """Return rows that have read: the first sees nothing under the strongest blur."""
    names = (*SEEING, *BLIND)
    for name in names:
        for case in (*prepared.splits.locked, *prepared.splits.folds[0]):
            truth = np.asarray(open_case(prepared, case).truth).reshape(1, 32, 32).astype(np.float32)
            seen = {
                c: truth * (name in SEEING and (name, c) != ("s1", "blur-3")) for c in conditions_of(prepared, case)
            }
            readings = ((c, encode(np.stack([1 - mask, mask]))) for c, mask in seen.items())
            write_readings(readings_of(tmp_path / name, case), readings)
    found: Any = SimpleNamespace(
        prepared=prepared,
        combined=tmp_path / "combined",
        networks={name: [("config", tmp_path / name / "weights")] for name in names},
        rows=lambda: tuple(SimpleNamespace(name=name, architecture="unet") for name in names),
        tested=lambda *told: set(told) <= set(found.networks),
    )
    return cast(Findings, found)


def test_greedy_keeps_those_that_see(findings: Findings) -> None:
    chosen = select_rows(findings, cast(MapCases, here))
    assert chosen is not None
    # at least three members: with the second that sees, a blind one is outvoted; a fourth vote would gain nothing
    assert chosen.votes[GREEDY] == {"s1": 1.0, "s2": 1.0, "b1": 1.0}
    assert chosen.votes[SINGLE] == {"s1": 1.0} and list(chosen.votes[TOP]) == ["s1", "s2", "b1", "b2", "b3"]
    for choice, clean in ((GREEDY, 1.0), (TOP, 0.0), (SINGLE, 1.0), (ALL, 0.0)):
        assert chosen.locked(choice, clean=True).mean == clean
    # under that blur one of three sees, and the best single one does not
    for choice in (GREEDY, SINGLE):
        assert chosen.locked(choice, clean=False).mean == pytest.approx(1 - 1 / len(conditions()))
    apart = chosen.against(TOP, clean=True)
    assert (apart.mean, apart.n) == (1.0, len(findings.prepared.splits.locked))
    assert chosen.against(SINGLE, clean=False).mean == 0.0


def test_a_selection_is_kept(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = select_rows(findings, cast(MapCases, here))
    assert select_rows(findings, cast(MapCases, never)) == chosen == chosen_rows(findings)
    assert findings.combined is not None and [path.name for path in findings.combined.iterdir()] == ["selection.json"]
    (table,) = selection_tables(findings)
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == [GREEDY, TOP, SINGLE, ALL]
    assert rows[TOP][3].startswith("+100.00 (") and rows[GREEDY][3] == NOTHING and rows[ALL][-1] == "all 6"
    assert "Chosen among 6 rows" in table.note and "within noise" in table.note
    monkeypatch.setattr(failure_selection, "FIGURES_VERSION", failure_selection.FIGURES_VERSION + 1)
    assert chosen_rows(findings) is None and selection_tables(findings) == ()


def test_an_interrupted_reading_goes_on(findings: Findings) -> None:
    def cut(function: Callable[[Any], Any], items: Sequence[Any], title: str) -> list[Any]:
        function(items[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_rows(findings, cast(MapCases, cut))
    first = findings.prepared.splits.locked[0]
    for name in (*SEEING, *BLIND):
        readings_of(findings.networks[name][0][1].parent, first).unlink()  # it would crash if it were read again
    chosen = select_rows(findings, cast(MapCases, here))
    assert chosen is not None and chosen.cases[0].values[f"{GREEDY}"] == 1.0


def test_nothing_is_chosen_before_all_rows_are_tested(findings: Findings) -> None:
    del findings.networks["b4"]
    assert select_rows(findings, cast(MapCases, never)) is None and selection_tables(findings) == ()
