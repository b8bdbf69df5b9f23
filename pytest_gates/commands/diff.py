"""`pytest-gates diff A B`: what the gates ask for now that they did not, and what no longer."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.commands.validate import contract_files

if TYPE_CHECKING:
    from pytest_gates.comparing import Bump, GateChange
    from pytest_gates.contract.models import Contract


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "diff",
        "compare two states of contracts by meaning; exit 1 if a gate was loosened",
        """
        Compares two states of contracts by meaning, not by text, and proposes the version. A is a
        git revision, a folder or a file; so is B, the working tree if left out. A gate that asks
        for less is LOOSENED.

        Exit status: 0 nothing was loosened, or a waiver covers it; 1 a gate was loosened without
        one, or a state cannot be read.
        """,
        (
            "pytest-gates diff origin/main",
            "pytest-gates diff v1.0 v1.1 --json",
        ),
    )
    parser.add_argument("a", metavar="A", help="the older state: a revision, folder or file")
    parser.add_argument("b", metavar="B", nargs="?", help="the newer state")
    parser.add_argument("--contracts", type=Path, default=Path("contracts"), metavar="PATH",
                        help="where contracts lie in a revision (default: contracts)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs")
    offer_root(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare and tell; 1 if a gate asks for less and no waiver covers it."""
    from pytest_gates.clock import utc_date  # noqa: PLC0415 - heavy
    from pytest_gates.comparing import bumps, compare  # noqa: PLC0415 - heavy

    paths = [Path(one) for one in (arguments.a, arguments.b) if one and Path(one).exists()]
    root = project_root(arguments.root, paths or [arguments.contracts])
    old = _state(root, arguments.a, arguments.contracts)
    new = _state(root, arguments.b or str(arguments.contracts), arguments.contracts)
    changes = compare(old, new, utc_date())
    _tell(changes, bumps(old, new, changes), as_json=arguments.json)
    return 1 if any(change.blocking for change in changes) else 0


def _state(root: Path, named: str, contracts: Path) -> tuple[Contract, ...]:
    from pytest_gates.states import contracts_at, contracts_of  # noqa: PLC0415 - heavy

    if Path(named).exists():
        return contracts_of(root, contract_files([Path(named)]))
    return contracts_at(root, named, [contracts])


def _tell(changes: tuple[GateChange, ...], versions: tuple[Bump, ...], *, as_json: bool) -> None:
    if as_json:
        told = [asdict(change) | {"blocking": change.blocking} for change in changes]
        say(json.dumps({"gates": told, "versions": [asdict(one) for one in versions]}, indent=2))
        return
    for change in changes:
        covered = f" ({change.waiver})" if change.waiver else ""
        say(f"{change.state:<10}{change.contract}::{change.gate}{covered}")
        for detail in change.details:
            say(f"{'':<10}{change.file}:{change.line}: {detail}")
    for one in versions:
        say(f"version of {one.contract}: {one.was} -> {one.now}; proposed {one.proposed}")
    counted = Counter(str(change.state) for change in changes)
    unwaived = sum(change.blocking for change in changes)
    tally = ", ".join(f"{count} {state}" for state, count in sorted(counted.items()))
    say(f"{tally or 'no gate differs'}" + (f"; {unwaived} without a waiver" if unwaived else ""))
