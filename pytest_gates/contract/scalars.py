"""What a scalar means in YAML 1.1.

The meaning is PyYAML's own: its resolver's expressions and its SafeConstructor, so that a contract
means here what it means to every other PyYAML program. One exception: timestamps stay strings.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

import yaml.constructor
import yaml.nodes
import yaml.resolver

Kind = Literal["null", "bool", "int", "float", "str"]
Value = str | int | float | bool | None

MAX_NUMBER_CHARACTERS = 1_000
"""Longest number. Python refuses 4,301 digits, and a sexagesimal's cost is quadratic."""

_PREFIX = "tag:yaml.org,2002:"
_KINDS: dict[str, Kind] = {"null": "null", "bool": "bool", "int": "int", "float": "float"}
# The base class's table: that of SafeLoader can have been changed by another plugin.
_RESOLVERS: dict[str, tuple[tuple[Kind, re.Pattern[str]], ...]] = {
    first: tuple(
        (_KINDS[tag.removeprefix(_PREFIX)], expression)
        for tag, expression in resolvers
        if tag.removeprefix(_PREFIX) in _KINDS
    )
    for first, resolvers in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
}
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_CONSTRUCT = {
    "null": _CONSTRUCTOR.construct_yaml_null,
    "bool": _CONSTRUCTOR.construct_yaml_bool,
    "int": _CONSTRUCTOR.construct_yaml_int,
    "float": _CONSTRUCTOR.construct_yaml_float,
}


def kind(value: str, style: str) -> Kind:
    """What a scalar is; whatever is quoted, or a block scalar, is a string."""
    if style:
        return "str"
    for name, expression in _RESOLVERS.get(value[:1], ()):
        if expression.match(value):
            return name
    return "str"


@lru_cache(maxsize=16_384)
def meaning(value: str, style: str) -> Value:
    """The Python value of a scalar.

    Raises:
        ValueError: A number that Python cannot hold (5,000 digits), or one without digits (`0x_`).
    """
    name = kind(value, style)
    if name == "str":
        return value
    if len(value) > MAX_NUMBER_CHARACTERS:
        raise ValueError(
            f"a number of {len(value):,} characters; at most {MAX_NUMBER_CHARACTERS:,}"
        )
    try:
        found: Value = _CONSTRUCT[name](yaml.nodes.ScalarNode(_PREFIX + name, value))
    except (ValueError, OverflowError):
        raise ValueError(f"`{value}` looks like a number but is none; quote it") from None
    return found


_EXPONENT = re.compile(r"([-+]?)([0-9]*)(?:\.([0-9]*))?[eE]([-+]?)([0-9]+)")
_OCTAL_12 = re.compile(r"[-+]?0o[0-7]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?(nan|inf|infinity)", re.IGNORECASE)
_SHORT = 40


def surprising(value: str, style: str) -> str | None:
    """Why a plain scalar means something else than it looks, or None.

    Examples: `010` is 8, `no` is a boolean, `1e-5` is a string, `1:30` is 90.
    """
    if style or len(value) > _SHORT:
        return None
    name = kind(value, style)
    if name == "bool" and value.lower() not in {"true", "false"}:
        meant = str(meaning(value, style)).lower()
        return f"`{value}` is the boolean {meant} in YAML 1.1; write {meant}, or quote it"
    if name in {"int", "float"}:
        return _surprising_number(value)
    return _surprising_string(value) if name == "str" else None


def _surprising_number(text: str) -> str | None:
    digits = text.lstrip("+-")
    if ":" in text:
        what = "a sexagesimal number"
    elif digits.startswith("0x"):
        what = "hexadecimal"
    elif digits.startswith("0b"):
        what = "binary"
    elif _LEADING_ZERO.fullmatch(digits.replace("_", "")) and "." not in digits:
        what = "octal"
    elif "_" in digits:
        what = "a number with underscores"
    else:
        return None
    try:
        meant = meaning(text, "")
    except ValueError as error:
        return str(error)
    return f"`{text}` is {what} in YAML 1.1 and means {meant}; write {meant}, or quote it"


def _surprising_string(text: str) -> str | None:
    exponent = _EXPONENT.fullmatch(text)
    if exponent and (exponent[2] or exponent[3]):
        sign, whole, fraction, exponent_sign, power = exponent.groups()
        write = f"{sign}{whole or 0}.{fraction or 0}e{exponent_sign or '+'}{power}"
    elif _OCTAL_12.fullmatch(text):
        write = str(int(text, 8))
    elif _LEADING_ZERO.fullmatch(text):
        write = str(int(text))
    elif _THOUSANDS.fullmatch(text):
        write = text.replace(",", "")
    elif _NON_FINITE.fullmatch(text):
        sign = text[0] if text[0] in "+-" else ""
        write = f"{sign}.inf" if "inf" in text.lower() else ".nan"
    else:
        return None
    return f"`{text}` is a string in YAML 1.1; write {write} for the number, or quote it"
