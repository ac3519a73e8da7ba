"""Names are unique, and an unknown name lists the known ones."""

from __future__ import annotations

import pytest

from overread.errors import UserError
from overread.registry import Registry


def test_register_get_and_list() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("two", 2)
    registry.register("one")(1)
    assert list(registry) == ["one", "two"]
    assert registry["two"] == 2
    assert "three" not in registry
    assert len(registry) == 2


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.add("one", 1)


def test_an_unknown_name_lists_the_known() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    registry.add("two", 2)
    with pytest.raises(UserError, match="unknown number 'three': choose one of one, two"):
        registry["three"]
