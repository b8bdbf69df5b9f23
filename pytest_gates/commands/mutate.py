"""`pytest-gates mutate`: every applicable fault into every run, and which gate turns red."""

from __future__ import annotations

import argparse
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.commands.validate import contract_files
from pytest_gates.errors import GatesError
from pytest_gates.settings import ASK_FIRST, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_gates.mutation import Mutant, Trial

BAR = 24
LISTED = "what `pytest-gates mutate --plan` prints"
AT_A_TIME = 2
"""Mutants at a time. Runs have one thread if they say nothing, and stock machines few cores."""


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "mutate",
        "inject every applicable fault into every run; which gates turn red?",
        """
        Tries each gate against each fault that can apply to its runs, as a falsifier would: the
        run sabotaged, and a clean control beside it. Prints the matrix, the score (faults caught
        of those injected), and who is at fault: a fault that SURVIVED every gate, and a gate that
        no fault turns red. Nothing is recorded, no contract is changed. Stopped, the same command
        goes on where it was.

        Exit status: 0 every fault was caught, 1 a fault survived or a gate is blind, or the
        contracts cannot be loaded; 130 stopped.
        """,
        (
            "pytest-gates mutate contracts/ --plan",
            "pytest-gates mutate contracts/first.yaml --score",
            "pytest-gates mutate contracts/ --gate GATE-FIRST-001 --fault frozen_weights",
        ),
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    parser.add_argument("--plan", action="store_true", help="say what would run, and stop")
    parser.add_argument("--fault", action="append", metavar="NAME", help="only this fault")
    parser.add_argument("--gate", action="append", metavar="ID", help="only this gate")
    parser.add_argument(
        "--score", action="store_true", help="each fault only until a gate catches it; no blindness"
    )
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=AT_A_TIME,
        metavar="N",
        help=f"mutants at a time ({AT_A_TIME})",
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was tried before")
    parser.add_argument(
        "--allow-driver",
        action="append",
        default=[],
        choices=sorted(ASK_FIRST),
        help="this driver may start the programs that contracts name",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print plan, progress, matrix and score; 1 if a fault survived everywhere or a gate is blind.

    A call that was interrupted goes on where it stopped, as long as code and gates are the same.
    """
    from pytest_gates.contract.load import load_contract  # noqa: PLC0415 - heavy
    from pytest_gates.mutation import (  # noqa: PLC0415 - heavy
        Memory,
        plan,
        scored,
        trials,
        until_caught,
    )
    from pytest_gates.mutation_workers import trying  # noqa: PLC0415 - heavy
    from pytest_gates.report.matrix import matrix_lines, score_lines  # noqa: PLC0415 - heavy

    settings = Settings(
        root=Path.cwd(),
        session=uuid.uuid4().hex,
        record="never",
        allow_drivers=frozenset(arguments.allow_driver),
    )
    files = contract_files(arguments.paths)
    contracts = [
        load_contract(path, settings.shown(path.resolve()), settings.caps) for path in files
    ]
    planned = plan(contracts)
    _known("--gate", arguments.gate, dict.fromkeys(one.gate.id for one in planned))
    _known("--fault", arguments.fault, dict.fromkeys(one.name for one in planned))
    mutants = [
        mutant
        for mutant in planned
        if mutant.name in (arguments.fault or [mutant.name])
        and mutant.gate.id in (arguments.gate or [mutant.gate.id])
    ]
    applicable = [mutant for mutant in mutants if mutant.fault is not None]
    say(f"{len(applicable)} of {len(mutants)} mutants (fault x gate) are applicable")
    if arguments.plan:
        for mutant in mutants:
            say(f"{mutant.gate.id}  {mutant.name}  {mutant.why_not or 'applies'}")
        return 0
    path = settings.cache / "mutation.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    progress, memory = Progress(len(applicable)), Memory(path)
    attempts = trying(settings, arguments.jobs)

    def some_tried(some: Sequence[Mutant]) -> list[Trial]:
        return trials(some, memory, attempts, progress.ended)

    try:
        tried = list(until_caught(mutants, some_tried)) if arguments.score else some_tried(mutants)
    except KeyboardInterrupt:
        progress.clear()
        say("stopped; the same command goes on from here")
        return 130
    progress.clear()
    score = scored(tried, blindness=not arguments.score)
    for line in (*matrix_lines(tried), "", *score_lines(tried, score)):
        say(line)
    return 1 if score.survivors or score.blind else 0


def _known(option: str, named: Sequence[str] | None, known: Collection[str]) -> None:
    """A name that nothing has would leave nothing to try, and nothing tried is no success."""
    from pytest_gates.vocabulary import hint  # noqa: PLC0415 - heavy

    for name in named or ():
        if name not in known:
            raise GatesError(f"{option}: there is no {name!r} here; {hint(name, known, LISTED)}")


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


class Progress:
    """A bar on a terminal; elsewhere a line a mutant would only be noise."""

    def __init__(self, count: int) -> None:
        self._count, self._ended = count, 0
        self._shown = sys.stderr.isatty()

    def ended(self, mutant: Mutant) -> None:
        """A mutant has its fate."""
        self._ended += 1
        if self._shown:
            bar = "#" * (self._ended * BAR // self._count)
            text = f"[{bar:<{BAR}}] {self._ended}/{self._count} {mutant.gate.id} {mutant.name}"
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
