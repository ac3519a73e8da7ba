"""Many independent calls as Ray tasks, with a progress bar and the real error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from overread.errors import OverreadError

if TYPE_CHECKING:
    from overread.data.prepare import MapCases

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def ray_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    title: str = "",
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> list[Result]:
    """Return `[function(item) for item in items]`, computed by Ray tasks, in the order of the items.

    Each task is given `num_cpus` and `num_gpus` (Ray hides the other GPUs from it). Must run inside `session`. The
    first error is raised at once: a `UserError` as itself, anything else as Ray's error, which shows the traceback of
    the worker. The other tasks are left to end by themselves or with the session: `ray.cancel` on a task that is just
    completing aborts the whole driver in Ray 2.60 ("Tried to complete task that was not pending").
    """
    import ray
    from ray.exceptions import RayTaskError

    if not ray.is_initialized():
        raise RuntimeError("ray_map must run inside overread.cluster.session.session()")
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=1)(function)
    references = [task.remote(item) for item in items]
    try:
        _wait(references, title)
        return list(ray.get(references))
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, OverreadError):
            raise cause from error
        raise


def on_gpus(map_cases: MapCases, gpus: float) -> MapCases:
    """Return the map that gives every task a share of a GPU; a map that is not Ray's has the device anyway."""
    return partial(ray_map, num_gpus=gpus) if gpus and map_cases is ray_map else map_cases


def _wait(references: list[Any], title: str) -> None:
    """Wait for all; the first failed one raises at once. Where nobody sees the bar, a line at the end says the time."""
    import ray
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console, started = Console(), time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not title or not console.is_terminal) as progress:
        bar = progress.add_task(title, total=len(references))
        waiting = references
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
            progress.advance(bar)
    if title and references and not console.is_terminal:
        log.info("%s: %d done in %.0f s", title, len(references), time.perf_counter() - started)
