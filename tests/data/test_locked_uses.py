"""The locked split remembers who read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overread.data.locked_uses import earlier_uses, locked_ledger, locked_uses, record_locked_use
from overread.records import Prepared
from overread.testing.tiny import tiny_prepared


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return tiny_prepared(tmp_path / "data")


def test_every_reading_is_a_line_that_stays(prepared: Prepared, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert earlier_uses(cache, prepared, "second") == ()
    before = b""
    for winners in ("second", "first", "second"):
        record_locked_use(cache, prepared, winners, tmp_path / "run")
        after = locked_ledger(cache, prepared).read_bytes()
        assert after.startswith(before) and len(after) > len(before)
        before = after
    uses = locked_uses(cache, prepared)
    assert [use["winners"] for use in uses] == ["second", "first", "second"]
    assert set(uses[0]) == {"time", "winners", "run", "cases"}
    assert earlier_uses(cache, prepared, "third") == ("second", "first")
    assert earlier_uses(cache, prepared, "second") == ("first",)


def test_a_line_that_broke_is_still_a_use(prepared: Prepared, tmp_path: Path) -> None:
    record_locked_use(tmp_path, prepared, "first", tmp_path)
    with locked_ledger(tmp_path, prepared).open("a") as ledger:
        ledger.write('{"winners": "sec')
    assert earlier_uses(tmp_path, prepared, "third") == ("first", "unknown")


def test_other_settings_do_not_hide_a_use_and_other_cases_do_not_share_one(prepared: Prepared, tmp_path: Path) -> None:
    split = replace(prepared, splits=replace(prepared.splits, locked=("case1", "case0")))
    record_locked_use(tmp_path, split, "first", tmp_path)
    same = replace(split, content="of another size", splits=replace(split.splits, locked=("case0", "case1")))
    assert earlier_uses(tmp_path, same, "second") == ("first",)
    other = replace(split, splits=replace(split.splits, locked=("case0", "case2")))
    assert earlier_uses(tmp_path, other, "second") == ()
    assert earlier_uses(tmp_path, replace(split, dataset="another"), "second") == ()


def test_a_test_of_every_case_is_a_use_of_every_split(prepared: Prepared, tmp_path: Path) -> None:
    split = replace(prepared, splits=replace(prepared.splits, locked=("case0", "case1")))
    folds = replace(prepared, splits=replace(prepared.splits, locked=()))
    record_locked_use(tmp_path, split, "first", tmp_path)
    record_locked_use(tmp_path, folds, "reproduce unetmer", tmp_path)
    record_locked_use(tmp_path, split, "second", tmp_path)
    assert set(earlier_uses(tmp_path, split, "third")) == {"first", "reproduce unetmer", "second"}
    assert [use["cases"] for use in locked_uses(tmp_path, folds)] == [len(prepared.cases)]
    assert earlier_uses(tmp_path, replace(folds, dataset="another"), "third") == ()
