"""Votes, tables and what members bring, from a report drawn by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from overread.ensemble.candidates import ChoiceRow
from overread.ensemble.contribution import Contribution, ErrorCorrelation
from overread.ensemble.greedy import Round, Selection
from overread.errors import UserError
from overread.metrics.summary import Summary
from overread.pipeline.folders import RunFolder
from overread.pipeline.selection_report import (
    SelectionReport,
    brought,
    imported_of,
    members_table,
    selection_grids,
    votes_of,
)
from overread.records import ImportedMember, Member, TrialConfig, Winners

CONFIG = TrialConfig(architecture="unet", options={}, in_channels=1, classes=2, patch_size=(8, 8), steps=1)


def figure(mean: float | None) -> Summary:
    return Summary(mean=mean, sd=None, n=4, low=None if mean is None else mean - 0.1, high=None)


def chosen(votes: dict[str, float], ended: str = "done") -> Selection:
    return Selection(
        votes=votes, dice=0.8, rounds=(Round(member="t:main", dice=0.8, gain=None, error=None),), cost=7.0, ended=ended
    )


VOTES = {"t:main": 2.0, "person": 1.0}
REPORT = SelectionReport(
    selection=chosen(VOTES),
    comparison=(ChoiceRow(name="greedy", votes=dict(VOTES), dice=figure(0.8), against_single=figure(0.1), cost=7.0),),
    contributions=tuple(
        Contribution(member=name, votes=vote, alone=figure(0.7), contribution=figure(0.02))
        for name, vote in VOTES.items()
    ),
    errors=ErrorCorrelation(
        members=("left out", "person", "t:main"),
        by_case=((1.0, 0.1, 0.2), (0.1, 1.0, 0.3), (0.2, 0.3, 1.0)),
        by_voxel=((1.0, 0.4, 0.5), (0.4, 1.0, 0.25), (0.5, 0.25, 1.0)),
    ),
)
PERSON = ImportedMember(name="person", folder="", sha256="", cases=4, validation_dice=0.7)
APART = replace(
    REPORT,
    per_class={"a": chosen(VOTES, "first"), "b": chosen(VOTES, "second")},
    class_weights={"t:main": (0.75, 1.0, 0.5), "person": (0.75, 0.5, 1.0)},
)


def member(**changes: object) -> Member:
    return replace(
        Member(
            name="unet-t",
            trial_id="t",
            architecture="unet",
            variant="main",
            config=CONFIG,
            weights="",
            sha256="",
            validation_dice=0.8,
        ),
        **changes,
    )


def test_votes_and_weights_of_members() -> None:
    assert votes_of(REPORT) == {("t", "main"): 2.0}
    (person,) = imported_of(REPORT, [PERSON, replace(PERSON, name="other")])
    assert (person.weight, person.class_weights) == (0.5, ())
    assert votes_of(APART) == {("t", "main"): (0.75, 1.0, 0.5)}
    (person,) = imported_of(APART, [PERSON])
    assert (person.weight, person.vote) == (0.75, (0.75, 0.5, 1.0))
    with pytest.raises(UserError, match="must have a trained member"):
        votes_of(replace(REPORT, selection=chosen({"person": 1.0})))


def test_the_table_of_members_has_the_correlation_of_errors_beside_the_contribution() -> None:
    (main, person) = csv.DictReader(io.StringIO(members_table(REPORT).csv()))
    assert main["member"] == "t:main"
    assert (main["dice_alone"], main["dice_alone_low"], main["dice_alone_high"]) == ("0.7", "0.6", "")
    assert (main["contribution"], main["contribution_low"]) == ("0.02", "-0.08")
    # with the other member: the candidate that was left out has no column
    assert (main["error_correlation"], main["error_correlation_person"]) == ("0.25", "0.25")
    assert (main["error_correlation_t:main"], person["error_correlation_t:main"]) == ("1", "0.25")
    assert "error_correlation_left out" not in main


def test_tables() -> None:
    rounds, choices, members = selection_grids(REPORT)
    assert rounds.title == "Greedy selection: done"
    assert choices.title == "Soft votes on the validation cases"
    assert members.rows[0] == ("t:main", "2", "0.700", "0.020", "–", "0.250")  # noqa: RUF001  (no upper end)
    first, second, choices, members = selection_grids(replace(APART, folds=(0, 1)))
    assert (first.title, second.title) == ("Greedy selection for a: first", "Greedy selection for b: second")
    assert choices.title == "Soft votes on the cases of 2 folds, out of fold"


def test_what_winners_bring_is_that_of_their_own_votes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    winners = Winners(rule="", members=(member(),), prepared="p", imported=(replace(PERSON, weight=0.5),))
    assert brought(folder, winners) == {}
    REPORT.write(folder)
    assert folder.members.read_text() == members_table(REPORT).csv()
    found = brought(folder, winners)
    assert {name: own.error_correlation for name, own in found.items()} == {"unet-t": 0.25, "person": 0.25}
    assert found["unet-t"].contribution == figure(0.02)
    assert brought(folder, replace(winners, imported=(PERSON,))) == {}  # equal votes
    assert brought(folder, replace(winners, imported=())) == {}
    apart = member(class_weights=(0.75, 1.0, 0.5))
    weighted = replace(winners, members=(apart,), imported=(replace(PERSON, class_weights=(0.75, 0.5, 1.0)),))
    assert brought(folder, weighted) == {}
    APART.write(folder)
    assert set(brought(folder, weighted)) == {"unet-t", "person"}
