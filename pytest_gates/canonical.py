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
from functools import lru_cache
from typing import Any

import orjson
import rfc8785

from pytest_gates.model.telemetry import encode_number

LARGEST_INTEGER = 2**53 - 1
"""Largest integer that every JSON reader keeps exact (RFC 8785, appendix D)."""
LONGEST_NUMBER = 32
"""More characters than any double has before its exponent."""

# Code points from U+E000 up may sort otherwise in UTF-16 than in Python; their UTF-8 starts here.
_MAY_SORT_OTHERWISE = re.compile(rb"[\xee-\xff]")
# Python pads an exponent to two digits, ECMAScript does not.
_PADDED_EXPONENT = re.compile(rb"e([+-])0([0-9])")
_EXPONENT = re.compile(rb"e[+-][0-9]+")
_UNSIGNED_EXPONENT = re.compile(rb"e[0-9]")
_WHOLE_FLOATS = (b".0,", b".0]", b".0}")
_NESTED = frozenset({dict, list})
_TEXT = frozenset({str})


def plain(value: Any) -> Any:  # noqa: PLR0911 - one line a type
    """The JSON form of a value: dataclasses and mappings become dicts, sequences lists.

    Raises:
        ValueError: an integer beyond 2^53 - 1, a key that is no string, or a type JSON lacks.
    """
    kind = type(value)  # by the class itself where it is JSON's own: nearly always
    if kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        return _plain_object(value)
    if isinstance(value, str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise ValueError(f"integer {value} is beyond 2^53 - 1, which JSON does not keep exact")
        return value
    if isinstance(value, float):
        return encode_number(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return _plain_object(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise ValueError(f"{type(value).__name__} has no JSON form")


def _plain_object(value: Mapping[Any, Any]) -> dict[str, Any]:
    if not _TEXT.issuperset(map(type, value)) and (
        strange := [key for key in value if not isinstance(key, str)]
    ):
        raise ValueError(f"key {strange[0]!r} is no string")
    return {key: plain(item) for key, item in value.items()}


def canonical(value: Any) -> bytes:
    """The canonical bytes of a value.

    Raises:
        ValueError: see `plain`; also a string with a lone surrogate.
    """
    tree = plain(value)
    # Other encoders are many times as fast as the reference one; where they may differ, see below.
    data = _quickly_written(tree)
    if data is not None and _is_as_meant(tree, data, _outside_of_strings(data)):
        return data
    data = _dump(tree)
    return data if _is_spelled_alike(data, _outside_of_strings(data)) else rfc8785.dumps(tree)


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
    numbers = _outside_of_strings(data)
    value = _quickly_read(data, numbers)
    if value is None:
        try:
            value = _DECODER.decode(data.decode())
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if not _is_canonical(value, data, numbers):
        raise ValueError("the bytes are not canonical JSON (RFC 8785)")
    return value


def _outside_of_strings(data: bytes) -> bytes:
    """What stands outside of strings: marks, words and every number; a part of the whole.

    What is asked of numbers is asked of this, a third as long and without hashes that look like
    them. Where a quote may be escaped it is all of the bytes, which only makes for more doubts.
    """
    return data if b"\\" in data else b"".join(data.split(b'"')[::2])


def _quickly_read(data: bytes, numbers: bytes) -> Any:
    """What the bytes say, from a reader several times as fast; None where it might read otherwise.

    It keeps integers beyond 2^53 - 1, of which ours makes the floats that they are.
    """
    if _LONG in numbers.translate(_DIGITS) and _LONG_INTEGER.search(numbers):
        return None
    try:
        return orjson.loads(data)
    except ValueError:
        return None


_DIGITS = bytes(ord("0") if chr(byte).isdecimal() else byte for byte in range(128)).ljust(256, b"_")
_LONG = b"0" * len(str(LARGEST_INTEGER))
_LONG_INTEGER = re.compile(rb"(?<![.0-9])[0-9]{%d}" % len(_LONG))


def _is_canonical(value: Any, data: bytes, numbers: bytes) -> bool:
    # The C encoder is eight times as fast as the reference one and differs from it in nothing but
    # the spelling of some floats and, for rare keys, their order.
    try:
        if _quickly_written(value) == data and _is_as_meant(value, data, numbers):
            return True
        said = _dump(value)
        same = said == data or _PADDED_EXPONENT.sub(rb"e\1\2", said) == data
        return (same and _is_spelled_alike(data, numbers)) or bool(rfc8785.dumps(value) == data)
    except (ValueError, RecursionError):
        return False


def _quickly_written(value: Any) -> bytes | None:
    """The bytes of a writer several times as fast again; None where it cannot."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested deeper than it writes, or a lone surrogate
        return None


def _is_as_meant(value: Any, data: bytes, numbers: bytes) -> bool:
    """Whether what that writer made of a value are its canonical bytes; a doubt is a no.

    It spells an exponent without a plus sign.
    """
    return (
        type(value) in _NESTED  # a number of its own stands behind no mark
        and _UNSIGNED_EXPONENT.search(numbers) is None
        and _is_spelled_alike(data, numbers)
    )


def _is_spelled_alike(data: bytes, numbers: bytes) -> bool:
    """Whether ECMAScript spells these bytes of our encoder like that; a doubt is a no."""
    if (not data.isascii() and _MAY_SORT_OTHERWISE.search(data)) or data.endswith(b".0"):
        return False
    if b".0" in numbers and any(whole in numbers for whole in _WHOLE_FLOATS):
        return False
    for exponent in _EXPONENT.finditer(numbers):
        before = numbers[max(0, exponent.start() - LONGEST_NUMBER) : exponent.start()]
        digits = before[len(before.rstrip(b"-.0123456789")) :]
        # An e without digits before it belongs to a word.
        if digits and not _is_shortest(digits + exponent[0]):
            return False
    return True


@lru_cache(maxsize=1024)
def _is_shortest(text: bytes) -> bool:
    try:
        return bool(rfc8785.dumps(float(text)) == text)
    except ValueError:
        return False


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _dump(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def _integer(text: str) -> int | float:
    if len(text) < len(str(LARGEST_INTEGER)):
        return int(text)
    # RFC 8785 spells the float 1e20 as an integer; read it back as the float it was.
    if len(text) > len(str(LARGEST_INTEGER)):
        return float(text)
    value = int(text)
    return value if abs(value) <= LARGEST_INTEGER else float(value)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer)
