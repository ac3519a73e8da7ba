"""Splits: by group, complete, seeded, stratified."""

import itertools

import pytest

from overread.data.splits import make_splits
from overread.errors import UserError
from overread.records import PrepareSettings, Splits


def _roles(splits: Splits) -> list[tuple[str, ...]]:
    return [splits.locked, splits.calibration, *splits.folds]


def test_fractions_and_folds_of_single_cases() -> None:
    splits = make_splits({f"c{i:03d}": f"c{i:03d}" for i in range(100)}, PrepareSettings())
    assert [len(role) for role in _roles(splits)] == [20, 15, 13, 13, 13, 13, 13]
    assert sorted(itertools.chain(*_roles(splits))) == [f"c{i:03d}" for i in range(100)]


def test_groups_are_never_parted() -> None:
    groups = {f"p{i // 3:02d}_{i % 3}": f"p{i // 3:02d}" for i in range(90)}
    splits = make_splits(groups, PrepareSettings())
    owners = [{groups[case] for case in role} for role in _roles(splits)]
    assert sum(len(owner) for owner in owners) == len(set.union(*owners)) == 30
    assert len(splits.locked) == 18


def test_the_seed_and_not_the_order_of_cases_decides() -> None:
    names = [f"c{i}" for i in range(40)]
    forward = make_splits({name: name for name in names}, PrepareSettings())
    assert make_splits({name: name for name in reversed(names)}, PrepareSettings()) == forward
    assert make_splits({name: name for name in names}, PrepareSettings(seed=1)).locked != forward.locked


def test_every_role_gets_its_share_of_each_stratum() -> None:
    names = [f"c{i:03d}" for i in range(200)]
    stratum = {name: "normal" if i % 5 == 0 else "lesion" for i, name in enumerate(names)}
    splits = make_splits({name: name for name in names}, PrepareSettings(folds=2), stratum)
    for role in _roles(splits):
        normal = sum(stratum[name] == "normal" for name in role)
        assert abs(normal - len(role) / 5) <= 2


def test_nothing_is_held_back_where_nothing_is_asked_for() -> None:
    settings = PrepareSettings(locked_fraction=0, calibration_fraction=0, folds=2)
    splits = make_splits({"a": "a", "b": "b", "c": "c"}, settings)
    assert splits.locked == splits.calibration == ()
    assert sorted(len(fold) for fold in splits.folds) == [1, 2]


def test_too_few_groups_are_refused() -> None:
    groups = {f"c{i}": f"g{i % 6}" for i in range(60)}
    with pytest.raises(UserError, match="at least 7 groups for 5 folds, 1 locked and 1 calibration groups, but has 6"):
        make_splits(groups, PrepareSettings())
    assert all(_roles(make_splits(groups, PrepareSettings(folds=4))))


@pytest.mark.parametrize(
    "settings", [PrepareSettings(folds=1), PrepareSettings(locked_fraction=0.9), PrepareSettings(locked_fraction=-0.1)]
)
def test_senseless_settings_are_refused(settings: PrepareSettings) -> None:
    with pytest.raises(UserError, match="must be"):
        make_splits({f"c{i}": f"c{i}" for i in range(60)}, settings)


def test_a_published_split_is_found_by_its_pattern() -> None:
    groups = {f"case{i:04d}": f"p{i}" for i in range(1, 13)} | {"other": "p11"}
    splits = make_splits(groups, PrepareSettings(locked_pattern="0(2|11)$", calibration_fraction=0, folds=2))
    assert splits.locked == ("case0002", "case0011", "other")  # with the others of its patient
    assert [len(fold) for fold in splits.folds] == [5, 5]
    with pytest.raises(UserError, match="must find some, but 'x' finds none"):
        make_splits(groups, PrepareSettings(locked_pattern="x"))
    with pytest.raises(UserError, match=r"must be a regular expression, but got '\('"):
        make_splits(groups, PrepareSettings(locked_pattern="("))
