"""Splices into the text of a contract, and how data is spelt so that YAML 1.1 reads it back.

Strings go in as double-quoted JSON, nested values as JSON on one line. Two things differ from what
`json.dumps` writes, because YAML 1.1 reads them as strings: `1e-05` becomes `1.0e-05`, and
non-finite numbers are spelt `.nan`, `.inf`, `-.inf`.
"""

from __future__ import annotations

import json
import marshal
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_gates.contract.nodes import Node, Path, Scalar, place
from pytest_gates.contract.scalars import kind
from pytest_gates.errors import WriteBackRefusedError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# JSON leaves these as they are; YAML does not allow them, or takes them for line breaks.
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def quoted(text: str) -> str:
    """A string as double-quoted JSON that YAML reads as the same string."""
    written = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def word(text: str) -> str:
    """A string without quotes where it needs none."""
    return text if _PLAIN.fullmatch(text) and kind(text, "") == "str" else quoted(text)


def flow(value: Any) -> str:
    """JSON data on one line."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{quoted(key)}: {flow(below)}" for key, below in value.items())
        return f"{{{inner}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, float):
        return _number(value)
    assert value is None or isinstance(value, int), f"{type(value).__name__} is no JSON"
    return json.dumps(value)


def block(entries: Sequence[Mapping[str, Any]], pad: str) -> list[str]:
    """Lines of a block list of mappings, indented by `pad`; nested values stay on one line."""
    return [
        f"{pad}{'  ' if position else '- '}{word(key)}: {flow(value)}"
        for entry in entries
        for position, (key, value) in enumerate(entry.items())
    ]


def plain(value: Any) -> Any:
    """JSON data as YAML gives it back: dict, list and plain strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [plain(below) for below in value]
    return str(value) if isinstance(value, str) else value


def difference(before: Any, after: Any, path: Path = ()) -> Path | None:
    """Path of the first thing that differs, in type or value (NaN equals NaN), or None."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in (*before, *(key for key in after if key not in before)):
            step = (*path, key)
            if key not in before or key not in after:
                return step
            found = difference(before[key], after[key], step)
            if found is not None:
                return found
        return None
    if isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            if marshal.dumps(one, 2) == marshal.dumps(other, 2):
                continue  # the same values of the same types in the same order: nearly always
            found = difference(one, other, (*path, index))
            if found is not None:
                return found
        return None if len(before) == len(after) else (*path, min(len(before), len(after)))
    return None if type(before) is type(after) and repr(before) == repr(after) else path


def spell(path: Path) -> str:
    """A path for people: `gates[3].rule`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    mantissa, exponent, power = repr(value).partition("e")
    point = "" if "." in mantissa else ".0"
    return f"{mantissa}{point}{exponent}{power}"


class Draft:
    """A text, the splices to make in it, and the data that the result must have."""

    def __init__(self, text: str, file: str, data: Any) -> None:
        self.text = text
        self.file = file
        self.data = data
        self._splices: list[tuple[int, int, str]] = []

    def refuse(self, node: Node, reason: str) -> NoReturn:
        """Give up, at a node."""
        raise WriteBackRefusedError(f"{place(node, self.file)}: {reason}; nothing was written")

    def replace(self, start: int, end: int, new: str) -> None:
        """Put `new` in place of the characters from `start` to `end` (exclusive)."""
        self._splices.append((start, end, new))

    def set_scalar(self, node: Node, value: str, name: str) -> None:
        """Replace a scalar's value and keep its style of quoting.

        Raises:
            WriteBackRefusedError: The node is no scalar, or a block scalar.
        """
        if not isinstance(node, Scalar):
            self.refuse(node, f"`{name}` is not a single value")
        if node.style in {"|", ">"}:
            self.refuse(node, f"`{name}` is a block scalar (`{node.style}`); write it on one line")
        new = word(value)
        if node.style == "'":
            new = "'" + value.replace("'", "''") + "'"
        elif node.style == '"':
            new = quoted(value)
        self.replace(node.start, node.end, self.gap(node) + new)

    def gap(self, node: Node) -> str:
        """The blank that is missing before an empty value (`verdict:`)."""
        return " " if node.start == node.end and self.text[node.start - 1] == ":" else ""

    def line_start(self, offset: int) -> int:
        """Offset of the first character of a line."""
        return self.text.rfind("\n", 0, offset) + 1

    def blank_before(self, offset: int) -> int:
        """Offset where the blanks and line ends before `offset` begin."""
        return len(self.text[:offset].rstrip(" \t\r\n"))

    def insert_lines(self, offset: int, lines: list[str]) -> None:
        """Insert whole lines behind the line that holds `offset`, whatever trails on it."""
        eol, newline = self.eol(offset), self.text.find("\n", offset)
        if newline < 0:
            self.replace(len(self.text), len(self.text), "".join(eol + line for line in lines))
        else:
            self.replace(newline + 1, newline + 1, "".join(line + eol for line in lines))

    def eol(self, offset: int) -> str:
        """How the line that holds `offset` ends; for a last line without end, as the first."""
        newline = self.text.find("\n", offset)
        newline = self.text.find("\n") if newline < 0 else newline
        return "\r\n" if newline > 0 and self.text[newline - 1] == "\r" else "\n"

    def result(self) -> str:
        """The text with all splices made; insertions at one offset stay in order."""
        pieces, last = [], 0
        for start, end, new in sorted(self._splices, key=lambda splice: splice[:2]):
            assert start >= last, "splices overlap"
            pieces += [self.text[last:start], new]
            last = end
        return "".join([*pieces, self.text[last:]])
