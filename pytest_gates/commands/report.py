"""`pytest-gates report`: the HTML report from recorded evidence; runs nothing, needs no GPU."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.commands.validate import contract_files

if TYPE_CHECKING:
    from pytest_gates.contract.models import Contract
    from pytest_gates.results import Result
    from pytest_gates.session import GatesSession


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "report",
        "write the HTML report from recorded evidence",
        """
        Judges every gate again from its recorded evidence and writes one HTML file: what passed,
        by how much, on which machine, and which faults each gate has been seen to catch. Nothing
        is run, so a laptop and a clone are enough. The report of a session that does run gates is
        written by `pytest --gates contracts/ --gates-report gates.html`.
        """,
        ("pytest-gates report contracts/ -o gates.html",),
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    parser.add_argument("-o", "--output", type=Path, default=Path("gates.html"), metavar="FILE",
                        help="where the report goes (default: gates.html)")  # fmt: skip
    offer_root(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge what is recorded and write the file; 1 if it cannot be written."""
    from pytest_gates.report.html import require_extra  # noqa: PLC0415 - heavy
    from pytest_gates.report.publish import Publisher, write_text  # noqa: PLC0415 - heavy
    from pytest_gates.results import armed_by_session  # noqa: PLC0415 - heavy

    require_extra()
    session = _session(project_root(arguments.root, arguments.paths))
    try:
        results = armed_by_session(_judged(session, arguments.paths))
    finally:
        session.close()
    publisher = Publisher(session.settings, results, lambda _: None, session.ledger, session.read)
    write_text(arguments.output, publisher.html())
    say(f"written {arguments.output}: {len(results)} gates and falsifiers")
    return 0


def _session(root: Path) -> GatesSession:
    from pytest_gates.session import GatesSession  # noqa: PLC0415 - heavy
    from pytest_gates.settings import Settings  # noqa: PLC0415 - heavy

    session = uuid.uuid4().hex
    return GatesSession(Settings(root=root, session=session, record="never", recorded_only=True))


def _judged(session: GatesSession, paths: Sequence[Path]) -> list[Result]:
    return [result for file in contract_files(paths)
            for result in _of_contract(session, _loaded(session, file))]  # fmt: skip


def _loaded(session: GatesSession, file: Path) -> Contract:
    from pytest_gates.contract.load import load_contract  # noqa: PLC0415 - heavy

    path = file.resolve()
    return load_contract(path, session.settings.shown(path), session.settings.caps)


def _of_contract(session: GatesSession, contract: Contract) -> list[Result]:
    from pytest_gates.contract.models import Gate  # noqa: PLC0415 - heavy

    return [
        session.verify(contract, one) if isinstance(one, Gate) else session.falsify(contract, one)
        for one in contract.items
    ]
