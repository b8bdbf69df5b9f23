"""Unified diff of long texts in time linear in their length.

`difflib` looks for the longest match again in all that is left of each hunk: of 500 edits in 6,000
lines that is a third of a second. Lines that occur once in both texts (a gate's id) split them into
stretches beforehand, as in Bram Cohen's patience diff, and it looks in those alone.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

Opcode = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]


class _Stretches(difflib.SequenceMatcher[str]):
    """A matcher whose opcodes are found stretch by stretch."""

    def __init__(self, a: Sequence[str], b: Sequence[str]) -> None:
        super().__init__(None, (), (), autojunk=False)
        self._lines = a, b

    def get_opcodes(self) -> list[Opcode]:
        """As `difflib.SequenceMatcher.get_opcodes`."""
        a, b = self._lines
        found: list[Opcode] = []
        i = j = 0
        for next_i, next_j in (*_anchors(a, b), (len(a), len(b))):
            left, right = a[i:next_i], b[j:next_j]
            if left == right:  # as most stretches are
                codes: Sequence[Opcode] = [("equal", 0, len(left), 0, len(right))] if left else []
            else:
                codes = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
            for tag, i1, i2, j1, j2 in codes:
                _add(found, (tag, i + i1, i + i2, j + j1, j + j2))
            i, j = next_i, next_j
        return found


def _add(found: list[Opcode], code: Opcode) -> None:
    # Stretches end amid equal lines; hunks are counted by whole ones.
    if found and found[-1][0] == code[0] == "equal":
        code = ("equal", found[-1][1], code[2], found.pop()[3], code[4])
    found.append(code)


def _anchors(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Positions, rising in both, of lines that occur exactly once in each."""
    in_a, in_b = Counter(a), Counter(b)
    at = {line: index for index, line in enumerate(b) if in_b[line] == 1}
    last = -1
    for index, line in enumerate(a):
        if in_a[line] == 1 and at.get(line, -1) > last:
            last = at[line]
            yield index, last


def unified(old: Sequence[str], new: Sequence[str], file: str, context: int = 3) -> Iterator[str]:
    """Lines of a unified diff; none if the texts are equal."""
    for number, group in enumerate(_Stretches(old, new).get_grouped_opcodes(context)):
        if not number:
            yield f"--- a/{file}\n"
            yield f"+++ b/{file}\n"
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                yield from (f" {line}" for line in old[i1:i2])
                continue
            yield from (f"-{line}" for line in old[i1:i2])
            yield from (f"+{line}" for line in new[j1:j2])


def _range(start: int, stop: int) -> str:
    count = stop - start
    if count == 1:
        return str(start + 1)
    # Of nothing, a diff names the line before.
    return f"{start + bool(count)},{count}"
