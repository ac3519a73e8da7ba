"""One registry for every kind of plug-in (architectures, losses, metrics, scores, layouts).

Entries register when their module is imported; packages import their modules in `__init__`, so every process that
imports the package knows the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from overread.errors import unknown_name

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """A name-to-entry table of one kind.

    >>> metrics: Registry[int] = Registry("metric")
    >>> metrics.add("dice", 1)
    1
    >>> metrics["dice"]
    1
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Register `entry` under `name` and return it; a name is taken once."""
        if name in self._entries:
            raise ValueError(f"{self.kind} names must be unique, but '{name}' is registered twice: rename one")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that registers the decorated object under `name`."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
