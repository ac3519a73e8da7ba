"""Batches loaded ahead in a thread while an accelerator computes. On the CPU a thread would only take its cores."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

import torch

from overread.records import Batch

AHEAD = 3


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the same batches in the same order; an error of the loader is raised here."""
    return batches if device.type == "cpu" else _from_thread(batches)


def _from_thread(batches: Iterator[Batch]) -> Iterator[Batch]:
    ready: queue.Queue[Batch | Exception | None] = queue.Queue(AHEAD)
    left = threading.Event()

    def put(item: Batch | Exception | None) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def load() -> None:
        try:
            for batch in batches:
                put(batch)
                if left.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    thread = threading.Thread(target=load, daemon=True, name="batches")
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:  # the consumer may leave early: time is up, or the trial failed
        left.set()
        thread.join()
