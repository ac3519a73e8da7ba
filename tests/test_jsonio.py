"""Records survive JSON, refuse what they do not know, and files are whole or absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from overread.errors import UserError
from overread.jsonio import JsonRecord, fingerprint, read_json, write_json, write_with


@dataclass(frozen=True, kw_only=True)
class Inner(JsonRecord):
    name: str


@dataclass(frozen=True, kw_only=True)
class Outer(JsonRecord):
    inner: Inner
    pairs: tuple[tuple[str, int], ...]
    rates: dict[str, float | None]
    kind: Literal["a", "b"] = "a"
    maybe: Inner | None = None


OUTER = Outer(inner=Inner(name="x"), pairs=(("one", 1), ("two", 2)), rates={"p": 0.5, "q": None})


def test_round_trip_through_text() -> None:
    assert Outer.from_json(json.loads(json.dumps(OUTER.to_json()))) == OUTER


def test_equal_records_have_equal_fingerprints() -> None:
    same = Outer.from_json(OUTER.to_json())
    other = Outer(inner=Inner(name="y"), pairs=OUTER.pairs, rates=OUTER.rates)
    assert same.fingerprint() == OUTER.fingerprint() != other.fingerprint()
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "c"}, "Outer.kind must be one of"),
        ({"surprise": 1}, "unknown keys ['surprise']"),
        ({"pairs": [["one"]]}, "Outer.pairs[0] must have 2 entries"),
        ({"inner": {"name": 3}}, "Outer.inner.name must be str"),
        ({"rates": {"p": "high"}}, "Outer.rates.p must be float"),
        ({"schema_version": 99}, "schema version 1, but got 99"),
    ],
)
def test_wrong_data_names_the_field(change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("[", r"\[").replace("]", r"\]")):
        Outer.from_json(OUTER.to_json() | change)


def test_missing_key_is_named() -> None:
    data = OUTER.to_json()
    del data["inner"]
    with pytest.raises(UserError, match="lacks the keys"):
        Outer.from_json(data)


def test_an_integer_is_a_float_but_a_bool_is_no_integer() -> None:
    assert Outer.from_json(OUTER.to_json() | {"rates": {"p": 1}}).rates["p"] == 1.0
    with pytest.raises(UserError):
        Outer.from_json(OUTER.to_json() | {"pairs": [["one", True]]})


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    write_json(target, {"a": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_with(target, fail)
    assert read_json(target) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})


def test_a_missing_or_broken_file_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="must hold JSON"):
        read_json(tmp_path / "broken.json")
