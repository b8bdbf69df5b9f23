"""Limits for contracts, which come from pull requests of strangers, and what syntax errors mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn, Protocol

from yaml import MarkedYAMLError

from pytest_gates.errors import ContractError, Finding, Place

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_EVENTS = 50_000
MAX_FINDINGS = 20
"""A hostile file cannot make us print more than this."""

_BOM = b"\xef\xbb\xbf"
# What YAML 1.1 calls printable, less its line breaks that no editor counts as lines (U+0085,
# U+2028, U+2029): they would put every later position on the wrong line.
_NOT_ALLOWED = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_LONE_CARRIAGE_RETURN = re.compile(r"\r(?!\n)")
_ESCAPED_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Mark(Protocol):
    """A position as PyYAML gives it; all three count from 0, in code points."""

    @property
    def index(self) -> int:
        """Offset into the text."""

    @property
    def line(self) -> int:
        """Lines before it."""

    @property
    def column(self) -> int:
        """Characters before it on its line."""


def read_contract_text(path: Path, file: str) -> str:
    """Text of a contract file, a byte order mark stripped, line ends as they are.

    Args:
        path: The file.
        file: Its name in messages.

    Returns:
        The text; offsets of nodes count in it.

    Raises:
        ContractError: Unreadable, no regular file, larger than `MAX_BYTES`, or not UTF-8.
    """
    return decode_contract(read_contract_bytes(path, file), file)


def read_contract_bytes(path: Path, file: str) -> bytes:
    """Bytes of a contract file.

    Raises:
        ContractError: Unreadable, no regular file, or larger than `MAX_BYTES`.
    """
    if not path.is_file():
        _refuse(file, 1, 1, "not a regular file" if path.exists() else "no such file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        _refuse(file, 1, 1, f"cannot be read: {error.strerror}")
    if len(data) > MAX_BYTES:
        _refuse(file, 1, 1, f"larger than {MAX_BYTES:,} bytes, the limit for a contract")
    return data


def decode_contract(data: bytes, file: str) -> str:
    """Bytes of a contract as text, a byte order mark stripped.

    Raises:
        ContractError: The bytes are not UTF-8.
    """
    data = data.removeprefix(_BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line, column = _position(before, len(before))
        _refuse(file, line, column, f"not UTF-8 (byte 0x{data[error.start]:02x})")


def refuse_characters(text: str, file: str) -> None:
    """Refuse a text that is too long or holds what no contract needs.

    Raises:
        ContractError: More than `MAX_BYTES` as UTF-8; a control character, a lone surrogate, a
            line break other than LF and CR LF.
    """
    found = _NOT_ALLOWED.search(text)
    if found:
        line, column = _position(text, found.start())
        _refuse(file, line, column, f"character U+{ord(found[0]):04X} is not allowed")
    found = _LONE_CARRIAGE_RETURN.search(text) if "\r" in text else None
    if found:
        line, column = _position(text, found.start())
        _refuse(file, line, column, "a carriage return without a line feed")
    if len(text.encode()) > MAX_BYTES:
        _refuse(file, 1, 1, f"larger than {MAX_BYTES:,} bytes, the limit for a contract")


def has_escaped_control(value: str) -> bool:
    """Whether a double-quoted value holds control characters, which only escapes can bring in."""
    return _ESCAPED_CONTROL.search(value) is not None


_MEANINGS = (
    ("mapping values are not allowed", "a second `: ` in one value; quote the value"),
    ("could not find expected ':'", "a key without `:`, or a text that needs quotes"),
    ("unexpected end of stream", "a quote that is never closed"),
    ("document separator", "a quote that is never closed"),
    ("expected ',' or '", "a bracket that is not closed, or a comma that is missing"),
    ("expected node content", "expected a value here"),
    ("expected the node content", "expected a value here"),
    ("did not find expected", "the indentation does not fit the lines above"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("unknown escape character", "an unknown escape; use single quotes, or double the backslash"),
    ("undefined tag handle", "tags are refused"),
    ("entries are not allowed", "a `- ` where no list can begin"),
)
"""Parts of what libyaml and the pure parser say, and the same for people."""

_CONFLICT = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
"""What git puts where two branches changed the same lines."""

_SHORT = 60


def shorten(text: str) -> str:
    """At most 60 characters of what a stranger wrote."""
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


def syntax_finding(error: MarkedYAMLError, text: str, file: str) -> Finding:
    """A scanner's or parser's error as one short line with its place."""
    conflict = _CONFLICT.search(text)
    if conflict is not None:
        line, column = _position(text, conflict.start())
        return Finding(Place(file, line, column), "a merge left its conflict here; resolve it")
    problem = str(error.problem)
    mark: Mark | None = error.problem_mark or error.context_mark
    if mark is None:
        return Finding(Place(file, 1, 1), f"not YAML: {shorten(problem)}")
    character = text[mark.index : mark.index + 1]
    message = next((says for part, says in _MEANINGS if part in problem), shorten(problem))
    if "tab character" in problem or (character == "\t" and "cannot start" in problem):
        message = "a tab in the indentation; YAML indents with spaces only"
    elif "cannot start any token" in problem:
        message = f"`{character}` cannot begin a value; quote the value"
    opened: Mark | None = error.context_mark
    if opened is not None and opened.line != mark.line:
        message += f" (begun on line {opened.line + 1})"
    return Finding(Place(file, mark.line + 1, mark.column + 1), f"not YAML: {message}")


def _position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _refuse(file: str, line: int, column: int, message: str) -> NoReturn:
    raise ContractError((Finding(Place(file, line, column), message),))
