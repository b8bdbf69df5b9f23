"""Settings that are each right but do not go together."""

from __future__ import annotations


class MisfitError(ValueError):
    """Raised by a model's validator; `path` leads to the setting that people will want to change.

    Without it the whole block would be blamed, and its place is where its first key stands.
    """

    def __init__(self, message: str, *path: str) -> None:
        """Say what does not fit, and where to look."""
        super().__init__(message)
        self.path = path
