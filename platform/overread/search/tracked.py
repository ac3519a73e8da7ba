"""The tracking of a running search: a server that fails is a warning and a short wait, never the end of a search."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""MLflow's own waits are minutes, in which the driver would start no trial."""


def guarded(call: Callable[..., object], *arguments: object, passing: tuple[type[Exception], ...] = ()) -> None:
    """Call the tracker; what goes wrong is logged with its reason, errors of the kinds `passing` are raised."""
    try:
        call(*arguments)
    except passing:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        logger.warning(
            "tracking failed (%s: %s); the files of the search are complete, --resume logs them again",
            type(error).__name__,
            reason,
        )
        logger.debug("tracking failed", exc_info=True)


@contextmanager
def short_waits() -> Iterator[None]:
    """Let MLflow's client give up soon, unless the user has set its waits."""
    added = [name for name in SHORT_WAITS if name not in os.environ]
    for name in added:
        os.environ.setdefault(name, SHORT_WAITS[name])
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
