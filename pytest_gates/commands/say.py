"""The one place where commands print."""

from __future__ import annotations

import os
import sys

PIPE_CLOSED = 141
"""Exit status of a command whose reader went away: what a shell gives for SIGPIPE, 128 + 13."""


class PipeClosedError(Exception):
    """Whoever read our standard output is gone, as `head` is after ten lines."""


def say(text: str) -> None:
    """One line, or several, on standard output.

    Raises:
        PipeClosedError: nobody reads it any more.
    """
    try:
        print(text)  # noqa: T201 - a command line talks
    except BrokenPipeError:
        raise PipeClosedError from None


def said() -> None:
    """Hand over what was said so far.

    Raises:
        PipeClosedError: nobody reads it any more.
    """
    try:
        if sys.stdout is not None:  # as it is where the shell closed it (`>&-`)
            sys.stdout.flush()
    except BrokenPipeError:
        raise PipeClosedError from None


def fall_silent() -> None:
    """Let what is left in the buffer go nowhere, or the interpreter's last flush would complain.

    So Python's documentation advises (library/signal, "Note on SIGPIPE").
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
