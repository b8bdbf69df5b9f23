"""The table of findings: each code, what it means and what to do. `docs/audit.md` is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_gates.results import Status

Grade = Literal["finding", "note"]


@dataclass(frozen=True)
class Code:
    """One kind of finding. A code keeps its meaning for good; a new meaning is a new code."""

    code: str
    title: str
    meaning: str
    remedy: str
    grade: Grade = "finding"
    """A `note` must be known, but leaves the exit status 0."""
    status: Status | None = None
    """What the gate is in a pytest session that meets it; None: shown by the audit alone."""


_UNFOUNDED, _TAMPERED = Status.UNFOUNDED, Status.TAMPERED
_RESTORE = "restore the file from git; if it is lost, set the verdict to `pending` and run the gate"
_FORGED = "find out who wrote it; remove the record, set the verdict to `pending`, run the gate"
_GIT = "look at the commits since then; restore the file from the older revision"

_TABLE = (
    # --- the contract's own word
    Code("PG101", "verdict typed", "The contract claims a verdict, and no record carries it.",
         "set it to `pending` and run the gate", status=_UNFOUNDED),
    Code("PG102", "cited record missing", "`verdict_basis` cites a record that is not there.",
         "restore the record from git, or set the verdict to `pending` and run the gate",
         status=_UNFOUNDED),
    Code("PG103", "record of another gate", "`verdict_basis` cites a record of another gate.",
         "set the verdict to `pending`, remove the basis, and run the gate", status=_TAMPERED),
    Code("PG104", "basis edited", "An entry of `verdict_basis` is not what its record says.",
         "`pytest-gates sync` restores it from the record", status=_TAMPERED),
    Code("PG105", "verdict is not its basis", "The verdict is not the worst of its entries.",
         "set it to `pending` and run the gate", status=_UNFOUNDED),
    Code("PG106", "contract lags behind", "The ledger has newer records than the contract shows.",
         "`pytest-gates sync` brings the contract up to its ledger"),
    Code("PG107", "gate changed after judgement",
         "The gate's checks or runs are not those that the verdict was made for.",
         "run the gate, so that it is judged as it is now declared"),
    Code("PG108", "contract unreadable", "The contract cannot be loaded.",
         "mend what is said at its place; after a merge try `pytest-gates sync`"),
    Code("PG109", "survivor behind a pass",
         "The contract claims a pass, and the newest record of one of the gate's falsifiers, as it "
         "is declared now, says that it SURVIVED.",
         "mend the gate or its falsifier, and run the falsifier until it is caught"),
    # --- the ledger
    Code("PG201", "record edited", "A record's bytes are not those that its name stands for.",
         _RESTORE, status=_TAMPERED),
    Code("PG202", "record renamed", "A record lies under a name that is not its hash.",
         "rename it to <sha256>.json in the folder of the first two characters",
         status=_TAMPERED),
    Code("PG203", "record malformed", "A file of the ledger is no record in canonical JSON.",
         _RESTORE, status=_TAMPERED),
    Code("PG204", "ancestor deleted", "A record's parent is not there.", _RESTORE,
         status=_TAMPERED),
    Code("PG205", "verdict not derived", "A record's evidence, judged again, says otherwise.",
         _FORGED, status=_TAMPERED),
    Code("PG206", "figures not derived",
         "A record's measured values are not those that its evidence gives.", _FORGED,
         status=_TAMPERED),
    Code("PG207", "clock set back",
         "A record says that it was made before its parent, or before its evidence.",
         "find out whose clock was wrong; run the gate again for a record with a true time"),
    Code("PG208", "several heads", "Branches were merged that both judged the gate. The worst "
         "verdict counts.", "run the gate once: its record joins them", "note"),
    Code("PG209", "superseded", "The newest record was judged by another version of the rules.",
         "run the gate, or replay and record it, with this version", "note"),
    Code("PG210", "re-run until green", "The gate was executed more than once before it passed.",
         "read the earlier records; a gate that passes now and then is no gate", "note"),
    Code("PG211", "suspect", "Something that the verdict depends on changed since it was judged.",
         "run it again on the same GPU, or on a CPU if that judged it", "note"),
    Code("PG212", "survivor declared anew",
         "A falsifier of a gate that passes SURVIVED, and has not been judged since it or its gate "
         "was declared otherwise.",
         "run the falsifier as it is declared now", "note"),
    # --- evidence
    Code("PG301", "evidence changed", "A file of the evidence is not what it was when recorded.",
         _RESTORE, status=_TAMPERED),
    Code("PG302", "evidence missing", "Evidence that a record cites is not there.", _RESTORE,
         status=_TAMPERED),
    Code("PG303", "evidence swapped",
         "A record stands on evidence that is another one's, or of another run.", _RESTORE,
         status=_TAMPERED),
    Code("PG304", "evidence unreadable",
         "Evidence is malformed, too large, behind a link, or outside the project.", _RESTORE,
         status=_TAMPERED),
    Code("PG305", "sabotaged evidence", "Evidence with an injected fault judges a gate.",
         _FORGED, status=_TAMPERED),
    # --- against git or a checkpoint
    Code("PG401", "record deleted", "A record of the older state is gone.", _GIT),
    Code("PG402", "record modified", "A record of the older state has other bytes.", _GIT),
    Code("PG403", "evidence modified or deleted",
         "Evidence of the older state is gone or has other bytes.", _GIT),
    Code("PG404", "history rewritten", "The older revision is no ancestor of this one.",
         "compare both branches; a rewritten history may have lost records"),
    Code("PG405", "clock behind git",
         "A record says that it was made before the commit that holds its parent.",
         "find out whose clock was wrong; run the gate again for a record with a true time"),
    Code("PG406", "loosened without a waiver", "A gate asks for less than in the older state.",
         "restore it, or give the gate a `waiver: {reason, owner, until}`"),
    # --- waivers
    Code("PG501", "waiver expired", "A waiver's last day is over.",
         "mend what is waived, or renew the waiver with a new reason"),
    Code("PG502", "waiver needless", "A waived gate passes.", "remove the waiver"),
    Code("PG503", "waived", "A failure is tolerated until the day its waiver names.",
         "nothing until then", "note"),
    Code("PG504", "falsifier waived with its gate",
         "The gate fails without the fault too, so its falsifier could not be asked.",
         "nothing until the gate is mended; then run the falsifier again", "note"),
)  # fmt: skip

CODES: dict[str, Code] = {code.code: code for code in _TABLE}
"""Every code by its name."""


@dataclass(frozen=True, order=True)
class AuditFinding:
    """One thing that the audit found."""

    file: str
    """Relative to the project's root."""
    line: int
    """Counts from 1; records, manifests and CSVs are named as a whole by line 1."""
    code: str
    subject: str
    """`<contract id>::<gate or falsifier>`; empty where nobody knows."""
    what: str

    @property
    def meaning(self) -> Code:
        """The row of the table."""
        return CODES[self.code]

    def __str__(self) -> str:
        of = f" {self.subject}" if self.subject else ""
        return f"{self.file}:{self.line}: {self.code}{of}: {self.what}; {self.meaning.remedy}"


def explain(code: str) -> str:
    """Several lines about one code; a KeyError if there is none of that name."""
    row = CODES[code]
    lines = [f"{row.code} {row.title} ({row.grade})", f"  {row.meaning}", f"  Do: {row.remedy}."]
    if row.status is not None:
        lines.append(f"  In pytest the gate is red: {row.status}.")
    return "\n".join(lines)


def markdown_table() -> str:
    """The table for the documentation."""
    head = "| code | what | meaning | what to do | in pytest |\n|---|---|---|---|---|"
    rows = [
        f"| {row.code}{' (note)' if row.grade == 'note' else ''} | {row.title} | {row.meaning} "
        f"| {row.remedy} | {row.status or ''} |"
        for row in _TABLE
    ]
    return "\n".join([head, *rows])
