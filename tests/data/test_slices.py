from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.data.slices import Slices, pretraining_cases
from overread.data.store import open_case
from overread.errors import UserError
from overread.records import Prepared, PreparedCase, Splits
from overread.testing.tiny import tiny_prepared


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Cases 0 locked, 1 calibration, 2 and 3 fold 0, 4 and 5 fold 1; 6 to 9 unlabelled, in groups old and new."""
    made = tiny_prepared(tmp_path, cases=10, shape=(3, 8, 6), volumes=True)
    names = [case.id for case in made.cases]
    groups = dict(zip(names[6:], (names[0], names[2], names[4], "new"), strict=True))
    unlabelled = tuple(replace(case, group=groups[case.id], annotators=()) for case in made.cases[6:])
    splits = Splits(locked=(names[0],), calibration=(names[1],), folds=((names[2], names[3]), (names[4], names[5])))
    return replace(made, cases=made.cases[:6], unlabelled=unlabelled, splits=splits)


def ids(cases: tuple[PreparedCase, ...]) -> list[str]:
    return [case.id for case in cases]


def test_nothing_of_a_held_out_group_is_trained_on(prepared: Prepared) -> None:
    assert ids(pretraining_cases(prepared, 0)) == ["case4", "case5", "case8", "case9"]  # 6: locked, 7: validation
    assert ids(pretraining_cases(prepared, 1)) == ["case2", "case3", "case7", "case9"]


def test_slices_of_all_cases_one_after_another(prepared: Prepared) -> None:
    slices = Slices(prepared, pretraining_cases(prepared, 0))
    assert len(slices) == 4 * 3
    assert slices.seen.cases == ("case4", "case5", "case8", "case9")
    found = slices.load([11, 0, 3])
    for image, (case, place) in zip(found, [(3, 2), (0, 0), (1, 0)], strict=True):
        wanted = open_case(prepared, pretraining_cases(prepared, 0)[case]).image[:, place]
        assert image.shape == (1, 8, 6)
        np.testing.assert_array_equal(image.numpy(), wanted)
    found[1][:] = 0  # a copy, not the file
    assert slices.load([0])[0].abs().max() > 0


def test_slices_know_their_data(prepared: Prepared) -> None:
    first, second = (Slices(prepared, pretraining_cases(prepared, fold)) for fold in (0, 1))
    assert first.content == Slices(prepared, pretraining_cases(prepared, 0)).content
    assert first.content != second.content
    other = replace(prepared, content="other")
    assert Slices(other, pretraining_cases(other, 0)).content != first.content
    with pytest.raises(UserError, match="at least one case"):
        Slices(prepared, ())


def test_near_duplicates_of_held_out_cases_are_not_trained_on(prepared: Prepared) -> None:
    free = tuple(replace(case, group=f"new {case.id}") for case in prepared.unlabelled)
    pairs = (("case0", "case6"), ("case7", "case6"), ("case4", "case8"))  # 7 is a copy of a copy of the locked 0
    made = replace(prepared, unlabelled=free, near_duplicates=pairs)
    assert ids(pretraining_cases(made, 0)) == ["case4", "case5", "case8", "case9"]
    assert ids(pretraining_cases(made, 1)) == ["case2", "case3", "case9"]  # 4 is held out, and 8 with it
