"""Speed and memory of a model: a few training steps on random data, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from overread.architectures import Published, build_segmenter, count_parameters
from overread.jsonio import JsonRecord
from overread.records import TrialConfig
from overread.reproduction.configs import architecture_of, options_at
from overread.reproduction.paper import Row
from overread.reproduction.results import Cost

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Item = TypeVar("Item")
Result = TypeVar("Result")
STEPS = 2
"""Timed steps, forward and backward, after one uncounted."""


@dataclass(frozen=True, kw_only=True)
class CostItem(JsonRecord):
    """A model to measure."""

    row: str
    config: TrialConfig
    published: int
    device: str = "cpu"
    threads: int = 1


def published_parameters(row: Row, classes: int | None = None) -> int:
    """Count a row's parameters at its published setting or width (`published_setting`), without allocating them."""
    import torch

    architecture = architecture_of(row)
    if row.published is not None:
        return architecture.published_parameters(row.published)
    published = published_setting(row, classes)
    with torch.device("meta"):
        model = architecture.build(
            options_at(row, 1.0),
            in_channels=published.in_channels,
            classes=published.classes,
            spatial_dims=len(published.size),
        )
    return count_parameters(model)


def published_setting(row: Row, classes: int | None = None) -> Published:
    """Return the published setting that says the axes, channels and classes that `published_parameters` counts for.

    It is the row's own where it names one, or that with most of its options, with `classes` if they are given.
    """
    architecture = architecture_of(row)
    if row.published is not None:
        return architecture.settings[row.published]

    def shared(setting: Published) -> int:
        return sum(setting.options.get(name) == value for name, value in row.options.items())

    nearest = max(architecture.settings.values(), key=shared)
    return nearest if classes is None else replace(nearest, classes=classes)


def measure_cost(item: CostItem) -> Cost:
    """Train a model for a few steps in a new process and return what they took.

    A process that trained another model before holds memory that its allocator gives the next: its peak says nothing.
    """
    return in_new_process(measure_here, item)


def in_new_process(function: Callable[[Item], Result], item: Item) -> Result:
    """Return `function(item)`, a module's function, called in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(function, item).result()


def measure_here(item: CostItem) -> Cost:
    """Train a model for a few steps in this process; the loss and its gradients must be finite."""
    import torch

    from overread.training.augment import Share
    from overread.training.timing import choose_precision, timed

    torch.set_num_threads(item.threads)
    device = torch.device(item.device)
    before = start_peak(device)
    segmenter = build_segmenter(item.config).to(device)
    precision = choose_precision(item.config, segmenter, device)
    seconds = timed(item.config, segmenter, precision, Share(item.config.batch_size), device, repeats=STEPS)
    return Cost(
        row=item.row,
        parameters=count_parameters(segmenter),
        published=item.published,
        seconds_per_step=seconds,
        peak_bytes=max(0, peak_memory(device) - before),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {item.threads} thread",
    )


def start_peak(device: object) -> int:
    """Forget earlier peaks; return the memory in use."""
    import torch

    if isinstance(device, torch.device) and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    if RESET.exists():
        RESET.write_text("5")  # Linux: the peak becomes the present size
    return _resident("VmRSS")


def peak_memory(device: object) -> int:
    """Return the most memory in use since `start_peak`, in bytes."""
    import torch

    if isinstance(device, torch.device) and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _resident("VmHWM")


def _resident(field: str) -> int:
    """Return a size of /proc/self/status in bytes; 0 where the system has no such file."""
    if not STATUS.exists():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines.get(field, "0").split()[0]) * 1024
