"""What every working command does around its stage: a Ray session, log lines, and tasks spread over the CPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from overread.data.prepare import MapCases


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"overread: {record.getMessage()}", err=True)


def show_log() -> None:
    """Print the log lines of overread to standard error."""
    logger = logging.getLogger("overread")
    if not any(isinstance(handler, _Echo) for handler in logger.handlers):
        logger.addHandler(_Echo())
    logger.setLevel(logging.INFO)


@contextmanager
def working(address: str | None, cpus: int | None, gpus: float = 0.0, **paths: str | Path | None) -> Iterator[MapCases]:
    """Open a Ray session (paths must be absolute on a cluster) and give the map that spreads cases over it."""
    from overread.cluster.session import require_absolute, require_gpus, session
    from overread.cluster.tasks import ray_map

    show_log()
    require_absolute(address, **paths)
    with session(address, cpus) as resources:
        require_gpus(gpus, resources)
        yield ray_map
