"""How a command explains itself: what it is for, in prose, and calls that can be copied."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import Any


def teach(
    commands: Any, name: str, summary: str, prose: str, examples: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A sub-command whose `--help` a newcomer can learn from."""
    epilog = "examples:\n" + "\n".join(f"  {one}" for one in examples) if examples else None
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=inspect.cleandoc(prose),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser
