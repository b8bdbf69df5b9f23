"""`pytest-gates validate`: load contracts and say all that is wrong with them; run nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.errors import ContractError, GatesError


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "validate",
        "load contracts, run nothing",
        """
        Loads each contract as pytest would, and says all that is wrong with it at once: a line
        `file:line:column: what, and what was expected` for each finding. Nothing is run, judged
        or written, and torch is not needed. Of a contract that is right it tells how many gates
        and falsifiers it has, and how many of them are prose that nothing executes.

        Exit status: 0 all can be loaded, 1 at least one cannot.
        """,
        ("pytest-gates validate contracts/", "pytest-gates validate contracts/first.yaml"),
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Load each contract; 1 if any of them has a finding."""
    from pytest_gates.contract.load import load_contract  # noqa: PLC0415 - heavy
    from pytest_gates.contract.runs import Caps  # noqa: PLC0415 - heavy
    from pytest_gates.contract.unique import Declared  # noqa: PLC0415 - heavy

    wrong, declared = 0, Declared()
    for file in contract_files(arguments.paths):
        try:
            contract = load_contract(file, str(file), Caps())
            declared.add(contract)
        except ContractError as error:
            say(str(error))
            wrong += 1
            continue
        prose = sum(item.prose for item in contract.items)
        count = f"{_many(contract.gates, 'gate')}, {_many(contract.falsifiers, 'falsifier')}"
        say(f"{file}: {count}" + (f", {prose} of them prose" if prose else ""))
    return 1 if wrong else 0


def _many(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")


def contract_files(paths: Sequence[Path]) -> list[Path]:
    """Files named, and those below the folders named, in order.

    Raises:
        GatesError: a path is not there.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise GatesError(f"{path}: there is no such file or folder")
        below = sorted(one for one in path.rglob("*") if one.suffix in {".yaml", ".yml"})
        files += below if path.is_dir() else [path]
    return files
