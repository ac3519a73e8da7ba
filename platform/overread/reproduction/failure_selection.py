"""Selection of members among all rows of the failure benchmark: chosen on the validation fold, judged on locked cases.

Four choices are compared: greedy selection with replacement by the rule and the settings of `overread ensemble`
(`ensemble.greedy`), one vote each for the rows of highest validation Dice, the best of them alone, and one vote for
every row. All are soft votes of the stored readings. The validation fold chose nothing else: trainings have a fixed
length, and every row read the fold with the weights that read the locked cases.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from overread.data.corruptions import CLEAN, conditions
from overread.data.preprocess import to_native
from overread.data.store import load_prepared, open_case
from overread.ensemble.candidates import ChoiceRow, Votes, compare_choices, read_alone, top_k
from overread.ensemble.fusion import Probabilities, SoftVote
from overread.ensemble.greedy import GreedySettings, Selection, select_greedily
from overread.ensemble.readings import read_reading
from overread.ensemble.selection import LEAST
from overread.jsonio import JsonRecord, fingerprint, read_json
from overread.metrics.overlap import Ids, case_dice
from overread.metrics.summary import Summary, paired_bootstrap, summarise
from overread.records import Prepared
from overread.reproduction.failure_readings import (
    FIGURES_VERSION,
    Values,
    at,
    conditions_of,
    kept_measures,
    readings_of,
)
from overread.reproduction.results import CaseMeasures, Findings
from overread.reproduction.writing import difference, percent
from overread.review.tables import Grid
from overread.review.words import NOTHING

if TYPE_CHECKING:
    from overread.data.prepare import MapCases

MOST = 5
"""Members of a greedy selection at the most, and those of the best ones that vote beside it."""
GREEDY, TOP, SINGLE, ALL = "greedy", f"top {MOST}", "best single", "all"
SELECTION = "selection.json"


@dataclass(frozen=True, kw_only=True)
class Chosen(JsonRecord):
    """`selection.json`: the choices and what they are worth."""

    key: str
    """Of the rows, their data and the version of the figures."""
    selection: Selection
    """The greedy one, round by round."""
    validation: tuple[ChoiceRow, ...]
    """Every choice on the cases that it was made by."""
    cases: tuple[CaseMeasures, ...]
    """The Dice of every choice on the locked cases, by its name and `<name>@<condition>`."""

    @property
    def votes(self) -> dict[str, Votes]:
        """The votes of every choice, greedy first."""
        order = (GREEDY, TOP, SINGLE, ALL)
        return {row.name: row.votes for row in sorted(self.validation, key=lambda row: order.index(row.name))}

    def dice(self, choice: str, *, clean: bool) -> list[float]:
        """Return the Dice of a choice on every locked case: clean, or the mean of all conditions."""
        chosen = (CLEAN,) if clean else conditions()
        return [float(np.mean([case.values[at(choice, name)] for name in chosen])) for case in self.cases]

    def locked(self, choice: str, *, clean: bool) -> Summary:
        """Return the summary of these, its interval by group."""
        return summarise(self.dice(choice, clean=clean), groups=self.groups)

    def against(self, choice: str, *, clean: bool) -> Summary:
        """Return greedy minus a choice, paired over the locked cases, its interval by group."""
        first, second = (self.dice(name, clean=clean) for name in (GREEDY, choice))
        return paired_bootstrap(first, second, groups=self.groups)

    @property
    def groups(self) -> list[str]:
        """Group of each locked case."""
        return [case.group for case in self.cases]


@dataclass(frozen=True)
class RowPredictions:
    """`candidates.Predictions` of the stored clean readings of rows, in the grid of the case."""

    prepared: Prepared
    folders: Mapping[str, Path]
    cases: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(self.folders)

    @property
    def groups(self) -> tuple[str, ...]:
        """Group of each case."""
        return tuple(self.prepared.case(case).group for case in self.cases)

    def probabilities(self, member: str, case: str) -> Probabilities:
        """Return (K, *native)."""
        read = read_reading(readings_of(self.folders[member], case), CLEAN)
        return to_native(read, self.prepared.case(case).native_shape, self.prepared.preprocessing)

    def truth(self, case: str) -> Ids:
        """Return the true class ids (*native)."""
        return np.asarray(open_case(self.prepared, case).truth)


@dataclass(frozen=True, kw_only=True)
class ChoiceItem(JsonRecord):
    """One locked case to be read by all choices."""

    case: str
    prepared: str
    """Folder of the prepared data set."""
    folders: dict[str, str]
    """Of the rows, by name."""
    votes: dict[str, dict[str, float]]
    """Of each row, by choice."""
    kept: str
    """File of the result: an interrupted reading goes on after the last case."""


def select_rows(findings: Findings, map_cases: MapCases) -> Chosen | None:
    """Choose among the rows and let every choice read the locked cases, unless that was done; None: a row is missing.

    With fewer rows it would be another comparison in every call that trains one more.
    """
    folders, key = _folders(findings), selection_key(findings)
    if folders is None or key is None or findings.combined is None:
        return None
    if (done := chosen_rows(findings)) is not None:
        return done
    prepared = findings.prepared
    predictions = RowPredictions(prepared, folders, prepared.splits.folds[0])
    settings = GreedySettings(least=min(LEAST, len(folders)), most=MOST)
    alone, selection = read_alone(predictions), select_greedily(predictions, settings)
    choices: dict[str, Votes] = {GREEDY: selection.votes, TOP: top_k(alone, MOST), ALL: dict.fromkeys(folders, 1.0)}
    validation = compare_choices(predictions, choices, alone)
    votes = {row.name: {name: float(own) for name, own in row.votes.items()} for row in validation}  # type: ignore[arg-type]
    kept = findings.combined / f"selection-{key}"
    items = [
        ChoiceItem(
            case=case,
            prepared=prepared.root,
            folders={name: str(folder) for name, folder in folders.items()},
            votes=votes,
            kept=str(kept / f"{case}.json"),
        )
        for case in prepared.splits.locked
    ]
    cases = tuple(map_cases(read_choices, items, "Reading with chosen rows"))
    found = Chosen(key=key, selection=selection, validation=validation, cases=cases)
    found.save(findings.combined / SELECTION)
    shutil.rmtree(kept, ignore_errors=True)
    return found


def chosen_rows(findings: Findings) -> Chosen | None:
    """Return what was stored of these rows; None: nothing."""
    path = None if findings.combined is None else findings.combined / SELECTION
    if path is None or not path.is_file() or read_json(path).get("key") != selection_key(findings):
        return None
    return Chosen.load(path)


def selection_key(findings: Findings) -> str | None:
    """Return the hash of what a selection depends on; None: a row is not tested."""
    folders = _folders(findings)
    if folders is None:
        return None
    told = {"rows": {name: folder.name for name, folder in folders.items()}, "data": findings.prepared.content}
    return fingerprint(told | {"figures": FIGURES_VERSION, "most": MOST})[:12]


def _folders(findings: Findings) -> dict[str, Path] | None:
    names = [row.name for row in findings.rows() if row.architecture is not None]
    if not names or not findings.tested(*names):
        return None
    return {name: findings.networks[name][0][1].parent for name in names}


def read_choices(item: ChoiceItem) -> CaseMeasures:
    """Return the class-mean Dice of every choice on a case, in all conditions."""
    return kept_measures(Path(item.kept), lambda: _read_choices(item))


def _read_choices(item: ChoiceItem) -> CaseMeasures:
    prepared = load_prepared(Path(item.prepared))
    truth = np.asarray(open_case(prepared, item.case).truth)
    case, values = prepared.case(item.case), Values()
    for condition in conditions_of(prepared, item.case):
        fused = {choice: SoftVote() for choice in item.votes}
        for name, folder in item.folders.items():
            read = read_reading(readings_of(Path(folder), item.case), condition)
            for choice, votes in item.votes.items():
                if name in votes:
                    fused[choice].add(read, votes[name])
        for choice, vote in fused.items():
            # Resizing is linear: the vote may be taken in the small grid, and is brought to the case's own once.
            mean = to_native(vote.mean(), case.native_shape, prepared.preprocessing)
            mask = mean.argmax(0).astype(np.uint8)
            values[at(choice, condition)] = case_dice(mask, truth, prepared.classes).mean
    return CaseMeasures(case=item.case, group=case.group, has_foreground=bool((truth > 0).any()), values=values)


def selection_tables(findings: Findings) -> tuple[Grid, ...]:
    """Return the choices with their Dice on both splits, and greedy against each; nothing before all rows are there."""
    chosen = chosen_rows(findings)
    if chosen is None:
        return ()
    validation = {row.name: row.dice for row in chosen.validation}
    rows = []
    for choice, votes in chosen.votes.items():
        told = [percent(validation[choice])]
        for clean in (True, False):
            apart = NOTHING if choice == GREEDY else difference(chosen.against(choice, clean=clean))
            told += [percent(chosen.locked(choice, clean=clean)), apart]
        members = f"all {len(votes)}" if choice == ALL else "; ".join(map(_voted, votes.items()))
        rows.append((choice, *told, members))
    columns = (
        "choice", "Dice, validation fold", "Dice, locked, clean", "greedy minus this", "Dice, locked, all conditions",
        "greedy minus this, all conditions", "members",
    )  # fmt: skip
    note = (
        f"Chosen among {len(chosen.votes[ALL])} rows by the clean validation fold, which flatters what it chose; votes "
        f"in brackets, n in cases, intervals (95 %) by group, in points. Greedy ended: {chosen.selection.ended}."
    )
    return (Grid("Selection of members", columns, tuple(rows), note=note),)


def _voted(vote: tuple[str, object]) -> str:
    name, own = vote
    return name if own == 1.0 else f"{name} ({own:g})"
