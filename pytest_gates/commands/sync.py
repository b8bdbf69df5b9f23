"""`pytest-gates sync`: bring contracts up to their ledger, after a merge or a crash."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.commands.validate import contract_files
from pytest_gates.errors import GatesError


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "sync",
        "bring contracts up to their ledger, after a merge or a crash",
        """
        Writes verdicts and their basis anew from the ledger. Conflict markers of git are resolved
        if they stand in what write-back itself writes; any other conflict is left to you, and its
        line is named.

        Exit status: 0 the contracts agree with their ledger now; 1 one was refused, or --check
        found a difference.
        """,
        (
            "pytest-gates sync contracts/",
            "pytest-gates sync contracts/ --check",
        ),
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH",
                        help="contracts, or folders of them")  # fmt: skip
    parser.add_argument("--check", action="store_true",
                        help="write nothing, print the difference; 1 if there is one")  # fmt: skip
    offer_root(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Bring each contract up to its ledger; 1 if one was refused, or `--check` found something."""
    from pytest_gates.ledger import Ledger  # noqa: PLC0415 - heavy
    from pytest_gates.syncing import sync  # noqa: PLC0415 - heavy

    root = project_root(arguments.root, arguments.paths)
    ledger = Ledger(root / "evidence")
    wrong = False
    for path in contract_files(arguments.paths):
        full = path.resolve()
        shown = full.relative_to(root).as_posix() if full.is_relative_to(root) else str(full)
        try:
            told = sync(full, shown, ledger, root / ".pytest_gates", check=arguments.check)
        except GatesError as error:
            say(f"{error}" if str(error).startswith(shown) else f"{shown}: {error}")
            wrong = True
            continue
        wrong |= arguments.check and bool(told)
        say(told or f"{shown}: agrees with its ledger")
    return 1 if wrong else 0
