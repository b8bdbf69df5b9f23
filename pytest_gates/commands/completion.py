"""`pytest-gates completion`: a script that lets a shell complete commands and options."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.errors import GatesError

SHELLS = ("bash", "zsh", "tcsh")


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "completion",
        "print a shell's completion script",
        """
        Prints the script that lets a shell complete commands, options and file names.
        Needs pip install 'pytest-gates[completion]'.
        """,
        (
            'eval "$(pytest-gates completion bash)"',
            "pytest-gates completion zsh > ~/.zfunc/_pytest-gates",
        ),
    )
    parser.add_argument("shell", choices=SHELLS, help="for which shell")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script.

    Raises:
        GatesError: what makes it is not installed.
    """
    if importlib.util.find_spec("shtab") is None:
        raise GatesError("completion needs an extra: pip install 'pytest-gates[completion]'")
    import shtab  # noqa: PLC0415 - in an optional extra

    from pytest_gates.cli import parser  # noqa: PLC0415 - it imports this module

    say(shtab.complete(parser(), shell=arguments.shell))
    return 0
