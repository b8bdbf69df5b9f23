"""`pytest-gates audit`: walk every verdict back to the bytes that prove it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.commands.validate import contract_files
from pytest_gates.errors import GatesError

if TYPE_CHECKING:
    from pytest_gates.audit.codes import AuditFinding
    from pytest_gates.audit.project import Audited


FOLDED = 3
"""So many notes of one code are listed; more are counted, and the first of them named."""


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "audit",
        "walk every verdict back to its evidence; exit 1 if anything is found",
        """
        Walks every verdict back to bytes: is each record named by its hash and canonical, are its
        parents there, is its evidence what it was, does the same `judge` derive the same verdict
        from it, and does the contract say what the ledger says? Needs no GPU and runs nothing.

        Each finding is a line `file:line: CODE ...` with what is wrong and what to do;
        `--explain CODE` says more. A note must be known, and is no finding. Exit status: 0 clean,
        or notes alone; 1 findings, or the audit could not be carried out; 2 unusable arguments.

        That something is gone shows only against an older state: `--since` takes a revision of
        git, `--checkpoint` the heads of every history that were kept elsewhere.
        """,
        ("pytest-gates audit contracts/",
         "pytest-gates audit contracts/ --since origin/main",
         "pytest-gates audit contracts/ --write-checkpoint /safe/heads.json",
         "pytest-gates audit --explain PG205"),
    )  # fmt: skip
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
    parser.add_argument(
        "--notes",
        action="store_true",
        help=f"list every note, also where more than {FOLDED} are of one code",
    )
    parser.add_argument("--json", action="store_true", help="for programs; lists everything")
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
    _tell(audited, as_json=arguments.json, every_note=arguments.notes)
    if arguments.write_checkpoint and audited.clean:
        write_checkpoint(arguments.write_checkpoint, audited)
    return 0 if audited.clean else 1


def _explain(code: str) -> int:
    from pytest_gates.audit.codes import CODES, explain  # noqa: PLC0415 - heavy

    if code not in CODES:
        raise GatesError(f"there is no code {code}; there are {', '.join(CODES)}")
    say(explain(code))
    return 0


def _tell(audited: Audited, *, as_json: bool, every_note: bool) -> None:
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
    # What is wrong comes last, where it is read.
    for line in _notes(notes, every_note=every_note):
        say(line)
    for one in wrong:
        say(str(one))
    seen = f"{len(audited.contracts)} contracts, {gates} gates, {len(audited.entries)} records"
    say(f"{seen}: {len(wrong)} findings, {len(notes)} notes")


def _notes(notes: list[AuditFinding], *, every_note: bool) -> Iterator[str]:
    for code in dict.fromkeys(one.code for one in notes):
        same = [one for one in notes if one.code == code]
        shown = same if every_note or len(same) <= FOLDED else same[:1]
        yield from (f"note: {one}" for one in shown)
        if len(shown) < len(same):
            yield (
                f"note: {code} and {len(same) - 1} more: {same[0].meaning.meaning} "
                "`--notes` lists them"
            )


def _data(finding: AuditFinding) -> dict[str, Any]:
    return asdict(finding) | {"title": finding.meaning.title, "remedy": finding.meaning.remedy}
