"""The one place where commands print."""

from __future__ import annotations


def say(text: str) -> None:
    """One line, or several, on standard output."""
    print(text)  # noqa: T201 - a command line talks
