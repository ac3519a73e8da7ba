"""What weights have seen, told by the record beside them."""

from dataclasses import replace
from pathlib import Path

import pytest

from overread.data.slices import Seen, mark
from overread.errors import UserError
from overread.jsonio import write_json
from overread.records import Prepared, Splits
from overread.testing.tiny import tiny_prepared
from overread.training.seen import RECORD, check_unseen, read_seen


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Case 0 locked, 1 calibration, 2 and 3 fold 0, 4 and 5 fold 1; each its own patient."""
    made = tiny_prepared(tmp_path / "data", cases=6)
    cases = tuple(replace(case, group=f"patient {case.id}") for case in made.cases)
    splits = Splits(locked=("case0",), calibration=("case1",), folds=(("case2", "case3"), ("case4", "case5")))
    return replace(made, cases=cases, splits=splits)


def written(folder: Path, *seen: Seen) -> Path:
    """Write the record of weights that have seen these, and return where the weights would be."""
    own, *earlier = (part.to_json() for part in seen)
    write_json(folder / RECORD, own | {"earlier": earlier, "config": {}})
    return folder / "weights.safetensors"


@pytest.mark.parametrize(("case", "refused"), [("case0", True), ("case1", True), ("case3", True), ("case4", False)])
def test_locked_calibration_and_validation_cases_are_held_out(
    prepared: Prepared, tmp_path: Path, case: str, refused: bool
) -> None:
    weights = written(tmp_path, Seen(dataset="tiny", cases=(case,)))
    if refused:
        with pytest.raises(UserError, match=rf"trained on 1 of them \(such as {case}\)"):
            check_unseen(weights, prepared, 0)
    else:
        check_unseen(weights, prepared, 0)


def test_an_unlabelled_image_of_a_held_out_patient_was_seen(prepared: Prepared, tmp_path: Path) -> None:
    seen = Seen(dataset="tiny", cases=("scan 7",), groups=("patient case3",))
    with pytest.raises(UserError, match="trained on other images of group patient case3"):
        check_unseen(written(tmp_path, seen), prepared, 0)
    check_unseen(written(tmp_path, replace(seen, groups=("patient case4",))), prepared, 0)


def test_near_duplicates_of_held_out_cases_are_held_out(prepared: Prepared, tmp_path: Path) -> None:
    copy = replace(prepared.cases[5], id="copy", group="new")
    both = replace(prepared, unlabelled=(copy,), near_duplicates=(("case0", "copy"),))
    weights = written(tmp_path, Seen(dataset="tiny", cases=("copy",)))
    with pytest.raises(UserError, match="such as copy"):
        check_unseen(weights, both, 0)
    check_unseen(weights, replace(both, near_duplicates=()), 0)


def test_data_are_known_under_another_name(prepared: Prepared, tmp_path: Path) -> None:
    weights = written(tmp_path, Seen.of("elsewhere", prepared.cases[3:]))
    with pytest.raises(UserError, match="such as case3"):
        check_unseen(weights, prepared, 0)
    # of the same names, but other images
    other = replace(prepared, cases=tuple(replace(case, native_shape=(9, 9)) for case in prepared.cases))
    check_unseen(weights, other, 0)
    assert mark(prepared.cases[0]) == mark(replace(prepared.cases[0], shape=(1, 4, 4), index=7))  # of any size


def test_what_weights_started_from_counts_too(prepared: Prepared, tmp_path: Path) -> None:
    first, second = Seen(dataset="other", cases=("a",)), Seen(dataset="tiny", cases=("case0",))
    weights = written(tmp_path, first, second)
    assert read_seen(weights) == (first, second)
    with pytest.raises(UserError, match="such as case0"):
        check_unseen(weights, prepared, 0)
    assert read_seen(tmp_path / "alone" / "dino.pth") == ()
    check_unseen(tmp_path / "alone" / "dino.pth", prepared, 0)
