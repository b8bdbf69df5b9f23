"""Errors for users: one clear line with its place, and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 4_000
"""Characters of a line for people; a stranger may have written a million."""
_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"
    "\\ud800-\\udfff]"
)
"""What a terminal or a CI service obeys, what ends a line, what turns the writing around or has no
width (Unicode's Bidi_Control and its neighbours), and what is no character at all."""


def visible(text: str) -> str:
    """A line that a stranger may have written, with all that it holds to be seen.

    Nothing in it moves a cursor, begins a line or hides: such a character becomes its escape.
    """
    if text.isprintable():
        return text
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """The same, and no longer than people read."""
    text = visible(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


@dataclass(frozen=True, order=True)
class Place:
    """A position in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{one_line(self.file)}:{self.line}:{self.column}"


class GatesError(ValueError):
    """Base of all errors that a user can mend: lines for people, mostly one."""

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(one_line, message.split("\n"))))


@dataclass(frozen=True, order=True)
class Finding:
    """One thing wrong in a contract: where, what, and what was expected."""

    place: Place
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ContractError(GatesError):
    """All findings of one contract file, at once."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        assert findings
        self.findings = tuple(sorted(findings))
        super().__init__("\n".join(map(str, self.findings)))


class EvidenceError(GatesError):
    """Evidence is missing, changed, malformed or lies where it must not; always one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MissingEvidenceError(EvidenceError):
    """A file or folder of the evidence is not there."""


class ChangedEvidenceError(EvidenceError):
    """Bytes are not what the hashes say they were when they were recorded."""


class SwappedEvidenceError(ChangedEvidenceError):
    """Evidence lies in another one's folder, whole as it was recorded."""


class LedgerError(GatesError):
    """A record is missing, changed or malformed."""


class WriteBackRefusedError(GatesError):
    """A contract cannot be edited safely; nothing was written."""


class SessionEndedError(Exception):
    """The session ended while something was waited for: nobody asks for it any more."""


class RunError(GatesError):
    """A run could not be started or its evidence not be kept."""
