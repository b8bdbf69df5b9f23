"""`pytest-gates schema`: the published JSON Schema of a contract."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pytest_gates.commands.say import say


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "schema", help="print the JSON Schema of a contract"
    )
    parser.set_defaults(command=run)


def run(_arguments: argparse.Namespace) -> int:
    """Print it."""
    from pytest_gates.schema import published  # noqa: PLC0415 - reads a file

    say(json.dumps(published(), indent=2, ensure_ascii=False))
    return 0
