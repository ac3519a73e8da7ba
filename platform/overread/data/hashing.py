"""The key of a prepared data set: a hash of every file and the settings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overread.errors import UserError
from overread.jsonio import fingerprint, read_json, write_json

PREPARATION = 2
"""Raise when prepared arrays change for equal data and settings."""
MEMO = "hashes.json"


def content_key(root: Path, settings: Mapping[str, Any], cache: Path) -> str:
    """Return the SHA-256 (hex) over the content and names of all files under `root`, and the settings.

    Files are read once: `hashes.json` of the cache remembers their hash by place, size and time of change.
    """
    known = _read_memo(cache / MEMO)
    hashes: dict[str, str] = {}
    memo: dict[str, str] = {}
    for path in _files(root):
        state = path.stat()
        stamp = f"{path}|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}"
        memo[stamp] = known.get(stamp) or file_sha256(path)
        hashes[path.relative_to(root).as_posix()] = memo[stamp]
    if not memo.keys() <= known.keys():
        others = {stamp: value for stamp, value in known.items() if not stamp.startswith(f"{root}{os.sep}")}
        write_json(cache / MEMO, others | memo)
    return fingerprint({"preparation": PREPARATION, "files": hashes, "settings": dict(settings)})


def _read_memo(path: Path) -> dict[str, str]:
    """Read the memo; a broken one only costs time."""
    try:
        memo = read_json(path)
    except UserError:
        return {}
    return {str(stamp): str(value) for stamp, value in memo.items()} if isinstance(memo, dict) else {}


def _files(root: Path) -> Iterator[Path]:
    """All files under `root` but hidden ones, in order; linked folders are followed, once each."""
    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            path for name in sorted(names) if not name.startswith(".") and (path := Path(folder, name)).is_file()
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file; a missing one raises `UserError`."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} must be readable, but it is not ({error.strerror}): restore the file") from None
