"""The one place where commands print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pytest_gates.errors import visible

PIPE_CLOSED = 141
"""Exit status of a command whose reader went away: what a shell gives for SIGPIPE, 128 + 13."""


class PipeClosedError(Exception):
    """Whoever read our standard output is gone, as `head` is after ten lines."""


class OutputError(Exception):
    """Standard output takes no more, as a file on a full disk; the message is for people."""


def say(text: str) -> None:
    """One line, or several, on standard output.

    Raises:
        PipeClosedError: nobody reads it any more.
        OutputError: it cannot be written.
    """
    with _written():
        print(_plain(text))  # noqa: T201 - a command line talks


def said() -> None:
    """Hand over what was said so far; it raises what `say` does."""
    with _written():
        if sys.stdout is not None:  # as it is where the shell closed it (`>&-`)
            sys.stdout.flush()


def complain(text: str) -> None:
    """One line, or several, on standard error; where that is full too, nobody can be told."""
    with suppress(OSError):
        print(_plain(text), file=sys.stderr)  # noqa: T201 - a command line talks


def _plain(text: str) -> str:
    """Records and evidence that a command tells of may be a stranger's."""
    return text if text.isprintable() else "\n".join(map(visible, text.split("\n")))


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise PipeClosedError from None
    except OSError as error:
        text = f"standard output: {error.strerror}; what was told there is not all"
        raise OutputError(text) from None


def fall_silent() -> None:
    """Let what is left in the buffer go nowhere, or the interpreter's last flush would complain.

    So Python's documentation advises (library/signal, "Note on SIGPIPE").
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
