"""JSON and TOML that anyone may have written: read within bounds, and checked against the types its reader expects.

Every document that imggen reads from a file of the user goes through here. Nothing here imports torch, numpy or PIL.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

MAX_BYTES = 16 << 20
MAX_DEPTH = 12  # the deepest that imggen itself writes is 5
MAX_VALUES = 1_000_000
MAX_INTEGER = 2**64
MAX_COUNT = 10**15


class DocumentError(ValueError):
    """A document is not JSON, too large or too deep, or lacks a value; the message completes "the document …"."""


class Kind(NamedTuple):
    """What a value must be: `name` completes "must be …"."""

    name: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


COUNT = Kind("a whole number from 0 to 1e15", lambda value: type(value) is int and 0 <= value <= MAX_COUNT)
NUMBER = Kind("a number", _is_number)
SECONDS = Kind("a number of seconds", lambda value: _is_number(value) and 0 <= value <= MAX_COUNT)
FRACTION = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
FLAG = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("text", lambda value: type(value) is str)
OBJECT = Kind("an object", lambda value: type(value) is dict)


def optional(kind: Kind) -> Kind:
    """The same kind, or null."""
    return Kind(f"{kind.name}, or null", lambda value: value is None or kind.accepts(value))


def read_json(text: str | bytes, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES) -> Any:
    """Parse JSON of at most `max_bytes`, `MAX_DEPTH` levels and `max_values` values.

    Raises DocumentError, also for what JSON does not define and Python would accept or choose from: NaN, infinity,
    repeated keys, and integers of more than 64 bits.
    """
    if len(text) > max_bytes:
        raise DocumentError(f"is longer than {max_bytes:,} bytes")
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, object_pairs_hook=_dict_of_unique_keys, parse_constant=_refuse_constant)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError("is not JSON") from error
    check_bounds(value, max_values)
    return value


def read_toml(text: bytes) -> dict[str, Any]:
    """Parse TOML, within the bounds of `read_json`. Raises DocumentError."""
    try:
        value = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"is not TOML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DocumentError("is nested too deeply, or has a number of thousands of digits") from error
    check_bounds(value)
    return value


def check_bounds(document: Any, max_values: int = MAX_VALUES) -> None:
    """Raise DocumentError if parsed JSON or TOML has too many levels or values, or a number out of range."""
    level, count = [document], 0
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, int | float) and not -MAX_INTEGER < value < MAX_INTEGER and not _is_float(value):
                raise DocumentError("has a number out of range")
        count += len(level)
        if count > max_values:
            raise DocumentError(f"has more than {max_values:,} values")
        if not inner:
            return
        level = inner
    raise DocumentError(f"is nested more than {MAX_DEPTH} levels deep")


def _is_float(value: float) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _refuse_constant(name: str) -> NoReturn:
    raise DocumentError(f"has the number {name}")


def _dict_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise DocumentError("has a key twice")
    return result


def read_fields(document: Any, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The values of a JSON object under the names of `kinds`; it may have others. Raises DocumentError."""
    if not isinstance(document, dict):
        raise DocumentError("is not an object")
    for name, kind in kinds.items():
        if name not in document:
            raise DocumentError(f"lacks '{name}'")
        if not kind.accepts(document[name]):
            raise DocumentError(f"has a wrong value: '{name}' must be {kind.name}")
    return {name: document[name] for name in kinds}
