"""Errors keep their arguments when they cross processes."""

from __future__ import annotations

import pickle

from overread.errors import TrialFailure, UserError


def test_user_errors_keep_all_problems() -> None:
    error = pickle.loads(pickle.dumps(UserError("first", "second")))  # noqa: S301  (our own bytes)
    assert error.problems == ("first", "second")
    assert str(error) == "first\nsecond"


def test_trial_failures_keep_their_kind() -> None:
    error = pickle.loads(pickle.dumps(TrialFailure("nan_loss", "at step 3")))  # noqa: S301  (our own bytes)
    assert (error.kind, str(error)) == ("nan_loss", "nan_loss: at step 3")
