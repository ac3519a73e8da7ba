"""Who has looked at a locked split: an append-only file of the cache, a line of JSON for every reading.

It is named by the data set and its locked cases, so that other settings of the preparation do not hide a use, and runs
in other folders share it. Nothing rewrites it: a second reading by the same winners is a line of its own.

An experiment that tests every case, each fold with a network that did not train on it, has no locked cases: its line is
in the file of none, and counts as a use of every locked split of the data set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overread.records import Prepared

LEDGER = "locked_uses"


def locked_ledger(cache: Path, prepared: Prepared) -> Path:
    """Return the file that tells who read these locked cases."""
    content = json.dumps([prepared.dataset, sorted(prepared.splits.locked)])
    return cache / LEDGER / f"{hashlib.sha256(content.encode()).hexdigest()}.jsonl"


def record_locked_use(cache: Path, prepared: Prepared, winners: str, run: Path) -> None:
    """Add that the winners of this fingerprint read the locked split for a run; on disk before it returns.

    Of experiments `winners` is their name. Without locked cases all of the data set were tested.
    """
    use = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "winners": winners,
        "run": str(run),
        "cases": len(prepared.splits.locked) or len(prepared.cases),
    }
    path = locked_ledger(cache, prepared)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write to a file opened for appending: lines of two processes do not mix.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(use) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def locked_uses(cache: Path, prepared: Prepared) -> list[Mapping[str, Any]]:
    """Return every reading of the locked split, the first one first; a line that broke is a use by unknown winners."""
    everything = replace(prepared, splits=replace(prepared.splits, locked=()))
    paths = dict.fromkeys(locked_ledger(cache, split) for split in (prepared, everything))
    lines = [line for path in paths if path.is_file() for line in path.read_text(errors="replace").splitlines()]
    return sorted((_parse(line) for line in lines if line.strip()), key=lambda use: str(use.get("time", "unknown")))


def earlier_uses(cache: Path, prepared: Prepared, winners: str) -> tuple[str, ...]:
    """Return who else read the locked split, fingerprints of winners or names of experiments, each once, in order."""
    names = [str(use["winners"]) for use in locked_uses(cache, prepared)]
    return tuple(dict.fromkeys(name for name in names if name != winners))


def _parse(line: str) -> Mapping[str, Any]:
    try:
        use = json.loads(line)
    except json.JSONDecodeError:
        use = None
    return use if isinstance(use, dict) and "winners" in use else {"winners": "unknown"}
