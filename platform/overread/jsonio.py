"""Frozen dataclasses to JSON and back, and files that are never half-written.

`JsonRecord` gives every record of `overread.records` a strict round trip: unknown or missing keys and wrong types are
errors, nested records, tuples, dicts, optionals and literals are understood. Files are written beside their target and
renamed, so a reader sees the old file or the whole new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from overread.errors import UserError


class JsonRecord:
    """Mixin for frozen dataclasses: JSON round trip, content hash, atomic save."""

    schema_version: ClassVar[int] = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, with the record's schema version."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"schema_version": self.schema_version} | {f.name: _encode(getattr(self, f.name)) for f in fields}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build the record from `to_json` data; a wrong shape raises `UserError` naming the field."""
        return _decode_record(cls, data, cls.__name__)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON: equal records have equal fingerprints."""
        return fingerprint(self.to_json())

    def save(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record; a missing or foreign file raises `UserError`."""
        return cls.from_json(read_json(path))


def fingerprint(data: Any) -> str:
    """Return the SHA-256 (hex) of JSON data in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write JSON data, whole or not at all. NaN is refused: JSON has none, use None."""
    write_bytes(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbour and a rename."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path` (same suffixes), then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes private files; results are to be read by others
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken file raises `UserError`."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} must exist, but it does not: check the path or run the step that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must hold JSON, but reading it failed ({error}): restore or rebuild it") from None


def _encode(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"records hold JSON-able values, but got {type(value).__name__}: {value!r}")


def _decode_record(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise UserError(f"{where} must be a JSON object, but got {type(data).__name__}")
    version = data.get("schema_version", cls.schema_version)
    if version != cls.schema_version:
        raise UserError(
            f"{where} must have schema version {cls.schema_version}, but got {version}: "
            "rebuild it with this version of overread"
        )
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields) - {"schema_version"})
    if unknown:
        raise UserError(f"{where} has unknown keys {unknown}: known keys are {sorted(fields)}")
    missing = sorted(
        name
        for name, field in fields.items()
        if name not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing:
        raise UserError(f"{where} lacks the keys {missing}")
    return cls(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in fields if name in data})


def _decode(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _decode_union([a for a in arguments if a is not type(None)], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where} must be one of {list(arguments)}, but got {value!r}")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a JSON object, but got {value!r}")
        return {str(key): _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, JsonRecord):
        return _decode_record(hint, value, where)
    return _decode_plain(hint, value, where)


def _decode_union(options: list[Any], value: Any, where: str) -> Any:
    for option in options:
        try:
            return _decode(option, value, where)
        except UserError:
            if option is options[-1]:
                raise
    raise AssertionError("a union has at least one option")


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a JSON list, but got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(arguments) != len(value):
        raise UserError(f"{where} must have {len(arguments)} entries, but got {len(value)}")
    return tuple(_decode(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


def _decode_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be {hint.__name__}, but got {value!r}")
    return value
