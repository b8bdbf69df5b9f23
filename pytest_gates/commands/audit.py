"""`pytest-gates audit`: walk every verdict back to the bytes that prove it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.validate import contract_files
from pytest_gates.errors import GatesError

if TYPE_CHECKING:
    from pytest_gates.audit.codes import AuditFinding
    from pytest_gates.audit.project import Audited


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "audit",
        help="walk every verdict back to its evidence; exit 1 if anything is found",
        description="Walks every verdict back to bytes: record named by its hash, canonical, "
        "parents present, evidence re-hashed, verdict derived again, contract agrees with the "
        "ledger. Needs no GPU and runs nothing. Exit status: 0 clean, 1 findings.",
        epilog="pytest-gates audit contracts/ --since origin/main",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH",
                        help="contracts, or folders of them")  # fmt: skip
    parser.add_argument("--since", metavar="REV",
                        help="also against git: nothing deleted, nothing modified, nothing "
                             "loosened since that revision")  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="also against heads that were kept elsewhere")  # fmt: skip
    parser.add_argument("--write-checkpoint", type=Path, metavar="FILE",
                        help="keep the heads of now in a file, if nothing is found")  # fmt: skip
    parser.add_argument("--explain", metavar="CODE", help="say what a code means, audit nothing")
    parser.add_argument("--json", action="store_true", help="for programs")
    offer_root(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Audit, and say what was found; 1 if that is more than notes."""
    if arguments.explain:
        return _explain(arguments.explain)
    from pytest_gates.audit.against import since, since_checkpoint, write_checkpoint  # noqa: PLC0415
    from pytest_gates.audit.project import audit  # noqa: PLC0415 - heavy

    if not arguments.paths:
        raise GatesError("name contracts, or folders of them: pytest-gates audit contracts/")
    files = [path.resolve() for path in contract_files(arguments.paths)]
    root = project_root(arguments.root, arguments.paths)
    audited = audit(root, files)
    if arguments.since:
        audited = audited.with_findings(since(root, arguments.since, arguments.paths, audited))
    if arguments.checkpoint:
        audited = audited.with_findings(since_checkpoint(arguments.checkpoint, audited))
    _tell(audited, as_json=arguments.json)
    if arguments.write_checkpoint and audited.clean:
        write_checkpoint(arguments.write_checkpoint, audited)
    return 0 if audited.clean else 1


def _explain(code: str) -> int:
    from pytest_gates.audit.codes import CODES, explain  # noqa: PLC0415 - heavy

    if code not in CODES:
        raise GatesError(f"there is no code {code}; there are {', '.join(CODES)}")
    say(explain(code))
    return 0


def _tell(audited: Audited, *, as_json: bool) -> None:
    wrong = [one for one in audited.findings if one.meaning.grade == "finding"]
    notes = [one for one in audited.findings if one.meaning.grade == "note"]
    gates = sum(len(contract.gates) for contract in audited.contracts)
    if as_json:
        told = {
            "findings": [_data(one) for one in wrong],
            "notes": [_data(one) for one in notes],
            "contracts": len(audited.contracts),
            "gates": gates,
            "records": len(audited.entries),
        }
        say(json.dumps(told, indent=2))
        return
    for one in (*wrong, *notes):
        say(str(one) if one in wrong else f"note: {one}")
    seen = f"{len(audited.contracts)} contracts, {gates} gates, {len(audited.entries)} records"
    say(f"{seen}: {len(wrong)} findings, {len(notes)} notes")


def _data(finding: AuditFinding) -> dict[str, Any]:
    return asdict(finding) | {"title": finding.meaning.title, "remedy": finding.meaning.remedy}
