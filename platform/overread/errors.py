"""Errors that cross layers and processes.

A user's mistake is a `UserError`: the command line prints each of its problems on one line and exits with code 2.
A training that cannot go on is a `TrialFailure`: it ends its trial with a reason and never the search.
Both pass every argument to `Exception.__init__`, so they survive the pickling between Ray processes.
"""

from __future__ import annotations

from collections.abc import Iterable


class OverreadError(Exception):
    """Base of all errors raised on purpose by overread."""


class UserError(OverreadError):
    """One or more mistakes of the user. Each problem is one line: what must hold, what was found, what to do."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line each, in the order found."""
        return tuple(str(problem) for problem in self.args)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class TrialFailure(OverreadError):  # noqa: N818  (a trial fails; the program does not)
    """A training that ended early for a known reason: `kind` is `nan_loss` or `out_of_memory`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not registered; it lists the valid names."""
    return UserError(f"unknown {kind} '{name}': choose one of {', '.join(sorted(known))}")
