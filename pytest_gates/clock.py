"""The time of a record. Nothing else that is hashed holds a time of its own making."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """Now, in UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_date() -> str:
    """Today in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")
