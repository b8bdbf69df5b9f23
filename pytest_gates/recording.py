"""From a judgement to a record, and from records to the contract: what is due, and in what order.

Evidence first, then the record, then the contract. A crash between any two leaves a state that
the next session finishes: records are looked up before anything is appended, and a contract that
lags behind its ledger is brought up at the end of any session that judged it live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_gates import __version__, writeback
from pytest_gates.canonical import digest
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.figures import several
from pytest_gates.checks.status import ExitStatus
from pytest_gates.clock import utc_date, utc_now
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import GatesError, RunError
from pytest_gates.evidence import Evidence, run_hash
from pytest_gates.evidence_store import RUNS, promote
from pytest_gates.identity import remembered
from pytest_gates.ledger import EvidenceRef, Ledger, Readable, Record, RecordHost, RunRef
from pytest_gates.model.config import CommandRun, RecordedRun
from pytest_gates.report.basis import (
    basis_entry,
    discharge_status,
    same_entry,
    weakest,
    worst_of,
)
from pytest_gates.results import Mode, Result, Status
from pytest_gates.revision import code_revision
from pytest_gates.settings import Settings
from pytest_gates.verdict import EVALUATOR, EvidenceByRun, Judgement

EVIDENCE_KEPT = 16
RECORDABLE = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE})


def refuse_disk_errors(gate: Gate, evidence: EvidenceByRun) -> None:
    """A full disk says nothing about a claim, so nothing is recorded of it.

    Raises:
        RunError: a run ended IO_ERROR, and the gate does not expect that.
    """
    if any("IO_ERROR" in check.statuses for check in gate.checks if isinstance(check, ExitStatus)):
        return
    for name, many in evidence.items():
        for one in many:
            if one.status == "IO_ERROR":
                raise RunError(f"run {name} ended IO_ERROR: {one.reason}; nothing was recorded")


def runs_of(gate: Gate) -> RunRef:
    """Name and hash of what a gate executes; one run as itself, several as one."""
    hashes = {name: run_hash(run) for name, run in gate.runs.items()}
    only = next(iter(hashes.values())) if len(hashes) == 1 else digest(hashes)
    return RunRef(name=" + ".join(hashes), hash=only)


def host_of(evidence: Sequence[Evidence]) -> RecordHost:
    """The machine a verdict is about; its GPU only where a run used one."""
    gpu = next((name for one in evidence if (name := used_gpu(one))), None)
    first = evidence[0].host
    return RecordHost(
        gpu=gpu,
        driver=next((one.host.driver for one in evidence if used_gpu(one)), None),
        torch=first.torch,
        declared=any(one.declared for one in evidence),
    )


@remembered(EVIDENCE_KEPT)
def used_gpu(evidence: Evidence) -> str | None:
    """Name of the GPU a run computed on, observed or declared; None on the CPU."""
    if isinstance(evidence.run, RecordedRun):
        return evidence.run.declares.host.gpu
    resolved = str(evidence.main.facts.get("device_resolved", ""))
    if not resolved and isinstance(evidence.run, CommandRun):
        resolved = evidence.run.device  # a program that says nothing was given it
    gpu = evidence.host.gpu
    return gpu.name if gpu is not None and resolved.startswith("cuda") else None


@dataclass(frozen=True)
class Draft:
    """A judgement on its way to become a record."""

    kind: Literal["gate", "falsifier"]
    contract: Contract
    subject: Gate | Falsifier
    gate: Gate
    verdict: Verdict
    """A falsifier that is caught passes."""
    reason: str
    judgement: Judgement
    evidence: Mapping[str, tuple[Evidence, ...]]
    fault: Mapping[str, Any] | None
    attempts: int

    @property
    def executions(self) -> tuple[Evidence, ...]:
        """All evidence, in order of runs and repetitions."""
        return tuple(one for many in self.evidence.values() for one in many)


@dataclass(frozen=True)
class Kept:
    """What carries a verdict."""

    sha: str = ""
    """The record's hash; empty if there is none."""
    written: bool = False
    """Whether it was appended now."""
    proposed: Record | None = None
    """What `--gates-record never` would have appended."""


class Recording:
    """Appends records that are due, promoting their evidence out of the ignored cache first."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._runs = (settings.evidence / RUNS).relative_to(settings.root).as_posix()

    def standing(self, draft: Draft) -> Record | None:
        """The record that already carries this verdict for this run and GPU, if there is one."""
        host, run = host_of(draft.executions), runs_of(draft.gate)
        if len(self._ledger.heads(draft.contract.id, draft.subject.id)) > 1:
            return None  # branches were merged; a new record joins them
        for record in self._ledger.current(draft.contract.id, draft.subject.id):
            same_place = record.run["hash"] == run["hash"] and record.host["gpu"] == host["gpu"]
            if same_place and record.gate_hash == draft.subject.hash:
                return record if record.verdict == draft.verdict else None
        return None

    def record(self, draft: Draft) -> Kept:
        """Append the verdict's record if it is due."""
        standing = self.standing(draft)
        if standing is not None and self._settings.record != "always":
            return Kept(standing.sha)
        if self._settings.record == "never":
            return Kept(proposed=self._made(draft, self._would_cite(draft)))
        return Kept(self._ledger.append(self._made(draft, self._cite(draft))), written=True)

    def _made(self, draft: Draft, cited: list[EvidenceRef]) -> Record:
        heads = self._ledger.heads(draft.contract.id, draft.subject.id)
        return Record(
            kind=draft.kind,
            contract=draft.contract.id,
            subject=draft.subject.id,
            gate_hash=draft.subject.hash,
            evaluator=EVALUATOR,
            evidence=tuple(cited),
            observed=tuple(observed_of(draft.judgement)),
            verdict=draft.verdict,
            reason=draft.reason or None,
            host=host_of(draft.executions),
            run=runs_of(draft.gate),
            attempts=draft.attempts,
            fault=draft.fault,
            time=utc_now(),
            program=__version__,
            code=code_revision(),
            parents=tuple(sorted(heads)),
        )

    def _cite(self, draft: Draft) -> list[EvidenceRef]:
        """References to the evidence, which is promoted to the recorded one."""
        for one in draft.executions:
            promote(self._settings.root / one.location, self._settings.evidence)
        return self._would_cite(draft)

    def _would_cite(self, draft: Draft) -> list[EvidenceRef]:
        return [
            EvidenceRef(
                role=role,
                repetition=one.repetition,
                id=one.id,
                location=f"{self._runs}/{one.location.rpartition('/')[2]}",
            )
            for role, executions in draft.evidence.items()
            for one in executions
        ]


def observed_of(judgement: Judgement) -> list[dict[str, Any]]:
    """What each check found, as a record keeps it."""
    observed = []
    for outcome in judgement.outcomes:
        data = vars(outcome) | {"verdict": str(outcome.verdict)}
        observed.append({key: list(value) if isinstance(value, tuple) else value
                         for key, value in data.items() if value not in (None, ())})  # fmt: skip
    return observed


# --- the contract ------------------------------------------------------------------------------


def write_contracts(
    settings: Settings,
    ledger: Ledger,
    results: Sequence[Result],
    as_judged: Callable[[Result], Contract | None],
) -> Iterator[str]:
    """Bring each judged contract up to its ledger, once; says what was written or would be.

    Lazy, for what would be written is rendered only as far as somebody reads it. `as_judged`
    gives a result's contract as it was when it was judged, or None if nothing in it was. A
    contract that somebody edited meanwhile is refused, named, and left alone; the others are
    still written.
    """
    by_file: dict[str, list[Result]] = {}
    for result in results:
        by_file.setdefault(result.contract, []).append(result)
    for mine in by_file.values():
        proposed = Ledger.of(one.proposed for one in mine if one.proposed is not None)
        ledgers = [ledger, proposed]
        try:
            contract = as_judged(mine[0])
            yield from _write_contract(settings, ledgers, contract, mine) if contract else ()
        except (GatesError, OSError) as error:
            yield f"not written: {error}"


def _write_contract(
    settings: Settings, ledgers: Sequence[Ledger], contract: Contract, results: Sequence[Result]
) -> list[str]:
    file, seen = contract.file, contract.text
    judged = {
        result.subject
        for result in results
        if result.mode in {Mode.LIVE, Mode.DECLARED}
        and result.status in {Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.CAUGHT}
    }
    bound = {one.binds_to for one in contract.falsifiers if one.id in judged}
    due = [
        gate for gate in contract.gates if gate.id in judged or (gate.id in bound and gate.basis)
    ]
    edit = contract_edit(contract, due, ledgers)
    if edit is None:
        return []
    names = several([one.gate_id for one in edit.gates])
    if settings.record == "never":
        after = writeback.render(seen, edit, file)
        return [f"would write {file} ({names}):", *writeback.diff(seen, after, file).splitlines()]
    path = settings.root / file
    writeback.write(path, seen, edit, file, settings.cache / "locks")
    return [f"written {file}: {names}"]


def contract_edit(
    contract: Contract, gates: Sequence[Gate], ledgers: Sequence[Readable]
) -> writeback.ContractEdit | None:
    """What a contract needs so that these gates say what the ledgers say; None: they do."""
    edits, changes = [], []
    for gate in gates:
        changed = gate_edit(contract, gate, ledgers)
        if changed is not None:
            edits.append(changed)
            if changed.verdict != gate.claimed:
                changes.append(f"{gate.id} {gate.claimed or 'none'} -> {changed.verdict}")
    if not edits:
        return None
    changelog = f"{{version}} ({utc_date()}): {'; '.join(changes)}" if changes else None
    return writeback.ContractEdit(gates=tuple(edits), changelog=changelog)


def gate_edit(
    contract: Contract, gate: Gate, ledgers: Sequence[Readable]
) -> writeback.GateEdit | None:
    """What a gate needs to say what the ledgers say, of which a later one wins; None: it does."""
    newest = {
        record.key: record
        for ledger in ledgers
        for record in ledger.current(contract.id, gate.id)
        if record.gate_hash == gate.hash
    }
    records = list(newest.values())
    if not records:
        return None
    armed = any(seen_red_by(contract, gate, ledger) for ledger in ledgers)
    entries = tuple(basis_entry(record, armed=armed) for record in records)
    verdict = worst_of(records)
    statuses = {discharge_status(record, armed=armed) for record in records}
    status = weakest(statuses)
    same = len(entries) == len(gate.basis) and all(
        same_entry(written, derived)
        and written.get("discharge_status") == derived["discharge_status"]
        for written, derived in zip(gate.basis, entries, strict=True)
    )
    if same and verdict == gate.claimed and gate.discharge_status in {None, status}:
        return None
    return writeback.GateEdit(gate.id, verdict, entries, status)


def seen_red_by(contract: Contract, gate: Gate, ledger: Readable) -> tuple[str, ...]:
    """Falsifiers whose newest record says that they saw the gate red, as both are declared now."""
    return tuple(
        falsifier.id
        for falsifier in contract.falsifiers_of(gate.id)
        for record in ledger.current(contract.id, falsifier.id)[:1]
        if record.verdict is Verdict.PASS and record.gate_hash == falsifier.hash
    )


def saved_text(settings: Settings, sha: str) -> Path:
    """Where a contract's text is kept for the session's end, whichever process judged it."""
    return settings.cache / "sessions" / settings.session / f"{sha}.yaml"
