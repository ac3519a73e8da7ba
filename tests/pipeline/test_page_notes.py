"""What the review page says of the run beside its cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overread.metrics.paired_tests import PairedTest
from overread.metrics.summary import Summary
from overread.pipeline.page import report_data
from overread.pipeline.summary import EnsembleFigures, Generalisation, RunSummary
from overread.records import ImportedMember, Manifest, Preprocessing

MANIFEST = Manifest(
    name="set",
    members=(),
    label_names=("background", "organ"),
    label_values=(0, 1),
    preprocessing=Preprocessing(channels=("x",), ct=(False,), spatial_dims=2, slice_axis=None, max_side=64),
    winners="w",
    prepared="p",
    locked_cases=4,
    imported=(ImportedMember(name="nnunet", folder="f", sha256="0", cases=9, validation_dice=None),),
)
SUMMARY = RunSummary(
    dataset="set",
    members=(),
    ensemble=EnsembleFigures(locked_dice=None, locked_dice_per_class={}, n=0),
    confidence={},
)


def figures(mean: float, n: int, low: float | None = None, high: float | None = None) -> Summary:
    return Summary(mean=mean, sd=None, n=n, low=low, high=high)


def pair(p: float | None) -> PairedTest:
    return PairedTest(first="a", second="b", n=9, difference=0.1, p=p, p_holm=p)


def test_notes_tell_what_the_choice_was_worth() -> None:
    summary = replace(
        SUMMARY,
        generalisation={
            "ensemble": Generalisation(
                validation=figures(0.9, 7), locked=figures(0.8, 4), difference=figures(-0.1, 4, -0.2, 0.05)
            )
        },
        winner_tests=(pair(0.01), pair(0.2), pair(None)),
        locked_uses=3,
    )
    notes = report_data(MANIFEST, [], Path(), summary).notes
    assert notes[1].endswith("7 validation cases that members were chosen by and 0.800 on the 4 locked ones: -0.1000 "
                             "(95 % interval -0.2000 to +0.0500).")  # fmt: skip
    assert notes[2].startswith("1 of 3 pairs of members differ")
    assert notes[3] == "These locked cases have been read 3 times, by any package."


@pytest.mark.parametrize("summary", [None, SUMMARY])
def test_imported_members_are_named_and_what_is_not_known_is_left_out(summary: RunSummary | None) -> None:
    data = report_data(MANIFEST, [], Path(), summary)
    assert data.notes[-1].startswith("Readings of other tools or people vote too: nnunet.")
    assert len(data.notes) == (1 if summary is None else 2)
    assert [(row.name, row.architecture, row.validation_dice) for row in data.members] == [("nnunet", "imported", None)]
