"""`pytest-gates`: what people ask without running pytest. One file a command, in `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_gates import __version__
from pytest_gates.commands import COMMANDS, Command
from pytest_gates.commands.say import (
    PIPE_CLOSED,
    OutputError,
    PipeClosedError,
    complain,
    fall_silent,
    said,
)
from pytest_gates.errors import GatesError

TAUGHT = """\
Claims about GPU training as contracts: YAML files whose gates pytest runs and judges.

  a contract   declares runs, and gates with checks over them
  a gate       is judged from evidence that its run leaves; nobody types a verdict
  a falsifier  sabotages a gate's run: a gate counts only when it has been seen red

To begin with:

  pytest-gates new smoke --kind training     a contract to start from
  pytest --gates contracts/                  run, judge, write the verdicts back
  pytest-gates report contracts/             an HTML page of what is recorded
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 fine, 1 findings, 2 unusable arguments.

    141 where whoever reads standard output stopped reading: no error of ours, and none is told. 1
    where it cannot be written, as on a full disk.
    """
    try:
        try:
            return _carried_out(argv)
        finally:
            said()
    except PipeClosedError:
        fall_silent()
        return PIPE_CLOSED
    except OutputError as error:
        fall_silent()
        complain(str(error))
        return 1


def _carried_out(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(arguments)
    except GatesError as error:
        complain(str(error))
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line as it is offered."""
    top = argparse.ArgumentParser(
        prog="pytest-gates",
        description=TAUGHT,
        epilog="pytest-gates COMMAND --help explains a command and shows calls of it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pytest-gates {__version__}")
    offered = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.offer(offered)
    return top


if __name__ == "__main__":
    sys.exit(main())
