"""`pytest-gates`: what people ask without running pytest. One file a command, in `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_gates import __version__
from pytest_gates.commands import COMMANDS, Command
from pytest_gates.errors import GatesError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 fine, 1 findings, 2 unusable arguments."""
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    try:
        return command(arguments)
    except GatesError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line talks
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line as it is offered."""
    top = argparse.ArgumentParser(
        prog="pytest-gates",
        description="Contracts about GPU training. To judge them: pytest --gates contracts/",
    )
    top.add_argument("--version", action="version", version=f"pytest-gates {__version__}")
    offered = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.offer(offered)
    return top


if __name__ == "__main__":
    sys.exit(main())
