"""Canonical JSON (RFC 8785): one value, one sequence of bytes, so that a hash means the value.

RFC 8785 knows no NaN and no infinity; here they are the strings "NaN", "Infinity" and "-Infinity",
as in telemetry. It drops the sign of -0.0, so bit-exact series belong in telemetry, not here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import rfc8785

from pytest_gates.model.telemetry import encode_number

LARGEST_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 8785, appendix D)."""

# Code points from U+E000 up may sort otherwise in UTF-16 than in Python; their UTF-8 starts here.
_MAY_SORT_OTHERWISE = re.compile(rb"[\xee-\xff]")


def plain(value: Any) -> Any:
    """The JSON form of a value: dataclasses and mappings become dicts, sequences lists.

    Raises:
        ValueError: an integer beyond 2^53 - 1, a key that is no string, or a type JSON lacks.
    """
    return _plain(value, [])


def _plain(value: Any, floats: list[float]) -> Any:  # noqa: PLR0911 - one line a type
    """See `plain`; finite floats are added to `floats`, for JSON spells them in many ways."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise ValueError(f"integer {value} is beyond 2^53 - 1, which JSON does not keep exact")
        return value
    if isinstance(value, float):
        found = encode_number(value)
        if isinstance(found, float):
            floats.append(found)
        return found
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"key {strange[0]!r} is no string")
        return {key: _plain(item, floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, floats) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), floats) for f in dataclasses.fields(value)}
    raise ValueError(f"{type(value).__name__} has no JSON form")


def canonical(value: Any) -> bytes:
    """The canonical bytes of a value.

    Raises:
        ValueError: see `plain`; also a string with a lone surrogate.
    """
    floats: list[float] = []
    tree = _plain(value, floats)
    # The C encoder is many times as fast as the reference one; where they differ, see below.
    data = _dump(tree)
    same_spelling = all(_is_shortest(repr(number)) for number in floats)
    return data if same_spelling and not _MAY_SORT_OTHERWISE.search(data) else rfc8785.dumps(tree)


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_canonical(data: bytes) -> Any:
    """Read a value back and prove that the bytes are its canonical ones.

    Raises:
        ValueError: the bytes are no JSON, or not the canonical bytes of what they say.
    """
    texts: list[str] = []

    def number(text: str) -> float:
        texts.append(text)
        return float(text)

    try:
        value = json.loads(data, parse_float=number, parse_int=_integer, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not _is_canonical(value, texts, data):
        raise ValueError("the bytes are not canonical JSON (RFC 8785)")
    return value


def _is_canonical(value: Any, floats: list[str], data: bytes) -> bool:
    # The C encoder is eight times as fast as the reference one and differs from it in nothing but
    # the spelling of floats and, for rare keys, their order; both are looked at apart.
    try:
        if not _MAY_SORT_OTHERWISE.search(data) and _dump(value) == data:
            return all(map(_is_shortest, floats))
        return bool(rfc8785.dumps(value) == data)
    except (ValueError, RecursionError):
        return False


def _is_shortest(text: str) -> bool:
    value = float(text)
    if repr(value) == text and "e" not in text and not text.endswith(".0"):
        return True  # Python and ECMAScript spell decimals without an exponent alike
    return bool(rfc8785.dumps(value) == text.encode())


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _integer(text: str) -> int | float:
    # RFC 8785 spells the float 1e20 as an integer; read it back as the float it was.
    if len(text) > len(str(LARGEST_INTEGER)):
        return float(text)
    value = int(text)
    return value if abs(value) <= LARGEST_INTEGER else float(value)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
