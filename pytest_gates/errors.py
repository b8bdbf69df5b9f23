"""Errors for users: one clear line with its place, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Place:
    """A position in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class GatesError(ValueError):
    """Base of all errors that a user can mend."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing wrong in a contract: where, what, and what was expected."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ContractError(GatesError):
    """All findings of one contract file, at once."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        assert findings
        self.findings = tuple(sorted(findings))
        super().__init__("\n".join(map(str, self.findings)))


class EvidenceError(GatesError):
    """Evidence is missing, changed, malformed or lies where it must not."""


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
