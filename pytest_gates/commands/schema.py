"""`pytest-gates schema`: the published JSON Schema of a contract."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "schema",
        "print the JSON Schema of a contract",
        """
        Prints the JSON Schema that editors complete and check contracts by: keys of runs, checks,
        falsifiers and waivers, with what each means. What a schema cannot say, for instance that
        a gate's run is declared, `pytest-gates validate` finds.

        An editor that knows YAML schemas takes the file's name from a comment in the contract:
        # yaml-language-server: $schema=../contract.schema.json
        """,
        ("pytest-gates schema > contract.schema.json",),
    )
    parser.set_defaults(command=run)


def run(_arguments: argparse.Namespace) -> int:
    """Print it."""
    from pytest_gates.schema import published  # noqa: PLC0415 - reads a file

    say(json.dumps(published(), indent=2, ensure_ascii=False))
    return 0
