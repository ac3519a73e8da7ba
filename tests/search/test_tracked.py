import logging
import os

import pytest

from overread.errors import UserError
from overread.search.tracked import guarded, short_waits


def lost_server() -> None:
    raise ConnectionError("no server at port 5000\nand more")


def wrong_store() -> None:
    raise UserError("the experiment must be active")


def test_a_failure_is_a_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        guarded(lost_server, passing=(UserError,))
        guarded(wrong_store)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "tracking failed (ConnectionError: no server at port 5000)",
        "tracking failed (UserError: the experiment must be active)",
    ]


def test_errors_that_must_be_seen_are_raised() -> None:
    with pytest.raises(UserError, match="must be active"):
        guarded(wrong_store, passing=(UserError,))


def test_waits_are_short_while_a_search_runs_and_those_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with short_waits():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
