"""Who has looked at a locked split: an append-only file of the cache, a line of JSON for every reading.

It is named by the data set and its locked cases, so that other settings of the preparation do not hide a use, and runs
in other folders share it. Nothing rewrites it: a second reading by the same winners is a line of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
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
    """Add that the winners of this fingerprint read the locked split for a run; on disk before it returns."""
    use = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "winners": winners,
        "run": str(run),
        "cases": len(prepared.splits.locked),
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
    path = locked_ledger(cache, prepared)
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [_parse(line) for line in lines if line.strip()]


def earlier_uses(cache: Path, prepared: Prepared, winners: str) -> tuple[str, ...]:
    """Return the fingerprints of other winners that read the locked split, the first one first, each once."""
    names = [str(use["winners"]) for use in locked_uses(cache, prepared)]
    return tuple(dict.fromkeys(name for name in names if name != winners))


def _parse(line: str) -> Mapping[str, Any]:
    try:
        use = json.loads(line)
    except json.JSONDecodeError:
        use = None
    return use if isinstance(use, dict) and "winners" in use else {"winners": "unknown"}
