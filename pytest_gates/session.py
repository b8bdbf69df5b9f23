"""The rim of a session: obtains evidence, has it judged, and records; `closing` does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from pytest_gates.attacks import carry_out
from pytest_gates.attempts import note_attempt
from pytest_gates.audit import evidence_of, foundation
from pytest_gates.boundary import flaw
from pytest_gates.checks.base import Verdict
from pytest_gates.clock import utc_date
from pytest_gates.closing import Closing
from pytest_gates.contract.models import Contract, Falsifier, Gate, check_kind
from pytest_gates.contract.unique import Declared
from pytest_gates.evidence import Evidence
from pytest_gates.evidence_store import read_evidence
from pytest_gates.falsify import Pair, expected_outcome, not_caught, why
from pytest_gates.ledger import Ledger
from pytest_gates.model.faults import Fault, Planted
from pytest_gates.recording import (
    RECORDABLE,
    Draft,
    Recording,
    host_of,
    observed_of,
    refuse_disk_errors,
    seen_red_by,
)
from pytest_gates.report.failure import falsifier_report, gate_report, plain_report
from pytest_gates.results import Mode, Result, Status
from pytest_gates.run.executor import Executor
from pytest_gates.run.plan import ahead, describe, executions, timed_runs
from pytest_gates.settings import Settings
from pytest_gates.staleness import Suspicion
from pytest_gates.verdict import EvidenceByRun, Judgement, judge
from pytest_gates.waiving import falsifier_with_waiver, made_red, with_waiver

if TYPE_CHECKING:
    import pytest

    from pytest_gates.run.server import Server

NOTHING_EXECUTABLE = "nothing executable"
EVIDENCE_KEPT = 64
"""Executions whose evidence stays in memory; gates of one run usually follow each other."""


class GatesSession:
    """One pytest session: `verify` for gates, `falsify` for falsifiers, `finish` at the end."""

    def __init__(self, settings: Settings, early: Server | None = None) -> None:
        """Take over the forkserver `early`, if one was started; whoever did closes it."""
        self.settings = settings
        self.ledger = Ledger(settings.evidence)
        self.declared = Declared()
        self.read = lru_cache(EVIDENCE_KEPT)(partial(read_evidence, settings.root))
        self._executor = Executor(settings, self.read, early)
        self._recording = Recording(settings, self.ledger)
        self._suspicion = Suspicion(self.ledger)
        self._closing = Closing(settings)
        self._finished: list[Result] = []

    def close(self) -> None:
        """End all processes."""
        self._executor.close()

    def plan(self, items: Sequence[Gate | Falsifier]) -> None:
        """Say what will be verified and falsified, so that runs can begin before they are due."""
        with suppress(OSError):  # it is told where an item is due
            self.ledger.read()
        if not (self.settings.replay or self.settings.recorded_only):
            self._executor.plan(ahead(items, self.obstacle), timed_runs(items))

    # --- gates -------------------------------------------------------------------------------

    def verify(self, contract: Contract, gate: Gate) -> Result:
        """Judge one gate, live where the machine can, else from its recorded evidence."""
        result = self._verified(contract, gate)
        return result if gate.waiver is None else with_waiver(gate, result, utc_date())

    def _verified(self, contract: Contract, gate: Gate) -> Result:
        base = self._base(contract, gate)
        if gate.prose and gate.prior is not Verdict.PASS:
            return self._blocked(base, gate, NOTHING_EXECUTABLE)
        shaken = foundation(contract, gate, self.ledger, self.read)
        if shaken is not None:
            status, reason = shaken
            text = plain_report(gate, status, reason)
            return replace(base, status=status, reason=reason, report=text, red=True)
        unturned = flaw(gate)
        if unturned is not None:
            reason = f"the verdict does not turn at its limit: {unturned}"
            text = plain_report(gate, Status.INCONCLUSIVE, reason)
            return replace(base, status=Status.INCONCLUSIVE, reason=reason, report=text, red=True)
        obstacle = self.obstacle(gate)
        if obstacle is not None:
            return self._replay(contract, gate, base, obstacle)
        evidence = self.evidence_of(gate)
        refuse_disk_errors(gate, evidence)
        return self._judged(contract, gate, base, evidence)

    def _judged(
        self, contract: Contract, gate: Gate, base: Result, evidence: EvidenceByRun
    ) -> Result:
        judgement = judge(gate, evidence)
        all_evidence = [one for many in evidence.values() for one in many]
        result = self._told_by(gate, base, judgement, _mode(evidence), all_evidence)
        if judgement.verdict not in RECORDABLE:
            return result
        attempts = note_attempt(
            self.settings.cache, contract.id, gate.id, gate.hash, judgement.verdict
        )
        draft = Draft(
            kind="gate", contract=contract, subject=gate, gate=gate,
            verdict=judgement.verdict, reason=judgement.reason, judgement=judgement,
            evidence=evidence, fault=None, attempts=attempts,
        )  # fmt: skip
        return self._armed(contract, gate, self._kept(contract, draft, result))

    def _replay(self, contract: Contract, gate: Gate, base: Result, obstacle: str) -> Result:
        records = self.ledger.current(contract.id, gate.id)
        judged = [(record, judge(gate, evidence_of(record, self.read))) for record in records]
        admissible = [(record, one) for record, one in judged if one.verdict is not Verdict.BLOCKED]
        if not admissible:
            why = judged[0][1].reason if judged else "no recorded evidence"
            return self._blocked(base, gate, f"{obstacle}; {why}")
        worst = Verdict.worst([one.verdict for _, one in admissible])
        record, judgement = next(pair for pair in admissible if pair[1].verdict is worst)
        evidence = [self.read(reference["location"]) for reference in record.evidence]
        result = self._told_by(gate, base, judgement, Mode.REPLAYED, evidence)
        suspect = self._suspicion.causes(record, gate)
        result = result.changed(record=record.sha, attempts=record.attempts, suspect=suspect)
        if suspect and self.settings.stale == "red":
            return made_red(gate, result, f"SUSPECT: {'; '.join(suspect)} (gates_stale = red)")
        if self.settings.live:
            reason = f"replayed from record {record.sha[:12]}: {obstacle}"
            report = plain_report(gate, Mode.REPLAYED, f"{reason} (--gates-live)")
            return replace(result, red=True, reason=reason, report=report)
        return self._armed(contract, gate, result)

    def _told_by(
        self, gate: Gate, base: Result, judgement: Judgement, mode: Mode,
        evidence: Sequence[Evidence],
    ) -> Result:  # fmt: skip
        if judgement.verdict is Verdict.BLOCKED:
            blocked = [one.summary for one in judgement.outcomes if one.verdict is Verdict.BLOCKED]
            return self._blocked(base, gate, judgement.reason or "; ".join(blocked))
        status = Status[judgement.verdict.name]
        deciding = judgement.deciding
        red = status is not Status.PASS
        host = str(host_of(evidence)["gpu"] or "CPU") if evidence else ""
        return base.changed(
            status=status,
            mode=mode,
            figure=(deciding.figure or "") if deciding else "",
            limit=(deciding.limit or "") if deciding else "",
            headroom_pct=deciding.headroom_pct if deciding else None,
            reason=(deciding.summary if deciding and red else judgement.reason),
            red=red,
            report=gate_report(gate, judgement, status, mode, host) if red else "",
            observed=tuple(observed_of(judgement)),
            evidence=tuple(one.location for one in evidence),
        )

    def _armed(self, contract: Contract, gate: Gate, result: Result) -> Result:
        """Add who has seen the gate red; in strict mode its falsifiers are asked first."""
        if self.settings.strict and not result.red:
            seen = tuple(
                one.id
                for one in contract.falsifiers_of(gate.id)
                if one.target is not None and self.falsify(contract, one).status is Status.CAUGHT
            )
            if not seen:
                reason = "no falsifier has seen this gate red"
                text = plain_report(gate, Status.UNARMED, reason + " (--gates-strict)")
                return replace(result, status=Status.UNARMED, red=True, reason=reason, report=text)
            return replace(result, armed_by=seen)
        seen = seen_red_by(contract, gate, self.ledger)
        return replace(result, armed_by=seen) if seen else result

    # --- falsifiers --------------------------------------------------------------------------

    def falsify(self, contract: Contract, falsifier: Falsifier) -> Result:
        """Sabotage the gate's run; green only if the very same `judge` turns the gate red."""
        result = self._asked(contract, falsifier)
        gate = falsifier.gate
        return result if gate is None else falsifier_with_waiver(gate, result, utc_date())

    def _asked(self, contract: Contract, falsifier: Falsifier) -> Result:
        base = self._base(contract, falsifier)
        gate, fault = falsifier.gate, falsifier.fault
        if gate is None or fault is None:
            return self._blocked(base, falsifier, NOTHING_EXECUTABLE)
        if isinstance(fault, Planted):
            return self._attacked(contract, falsifier, base, fault)
        shaken = foundation(contract, falsifier, self.ledger, self.read)
        if shaken is not None:
            status, reason = shaken
            text = plain_report(falsifier, status, reason)
            return replace(base, status=status, reason=reason, report=text, red=True)
        obstacle = self.obstacle(gate)
        if obstacle is None:
            return self._falsified(contract, falsifier, base, self._execute_pair(gate, fault))
        return self._falsifier_replayed(contract, falsifier, base, obstacle)

    def _falsifier_replayed(
        self, contract: Contract, falsifier: Falsifier, base: Result, obstacle: str
    ) -> Result:
        for record in self.ledger.current(contract.id, falsifier.id):
            if record.gate_hash == falsifier.hash:
                pair = Pair(
                    evidence_of(record, self.read, sabotaged=True),
                    evidence_of(record, self.read),
                )
                result = self._weighed(falsifier, base, pair, Mode.REPLAYED)
                result = replace(result, record=record.sha)
                return self._replayed(falsifier, result, obstacle)
        return self._blocked(base, falsifier, f"{obstacle}; no recorded evidence")

    def _attacked(
        self, contract: Contract, falsifier: Falsifier, base: Result, fault: Planted
    ) -> Result:
        """Forge copies of the gate's evidence; nothing is executed beyond the gate's own runs."""
        gate = falsifier.gate
        assert gate and falsifier.expect
        obstacle = self.obstacle(gate)
        evidence = self.evidence_of(gate) if obstacle is None else self._recorded(contract, gate)
        if evidence is None:
            return self._blocked(base, falsifier, f"{obstacle}; there is no evidence to forge")
        base = replace(base, mode=Mode.REPLAYED if obstacle is not None else _mode(evidence))
        control = judge(gate, evidence)
        base = replace(base, control=str(control.verdict))
        if control.verdict is not Verdict.PASS:
            reason = f"without the attack the gate is {control.verdict}, not pass: {why(control)}"
        else:
            noticed = carry_out(fault, contract, gate, evidence, self.settings)
            if noticed.verdict == falsifier.expect.verdict and noticed.red(falsifier.target):
                caught = replace(base, status=Status.CAUGHT, figure=noticed.reason,
                                 attack=falsifier.target is None)  # fmt: skip
                return caught if obstacle is None else self._replayed(falsifier, caught, obstacle)
            reason = f"the attack left the gate {noticed.verdict}: {noticed.reason}".rstrip(": ")
        text = plain_report(falsifier, Status.SURVIVED, reason)
        return replace(base, status=Status.SURVIVED, reason=reason, red=True, report=text)

    def _replayed(self, falsifier: Falsifier, result: Result, obstacle: str) -> Result:
        """A result from recorded evidence, which is red where only a live one will do."""
        if not self.settings.live:
            return result
        of = f" from record {result.record[:12]}" if result.record else ""
        reason = f"replayed{of}: {obstacle}"
        text = plain_report(falsifier, Mode.REPLAYED, reason + " (--gates-live)")
        return replace(result, red=True, reason=reason, report=text)

    def _recorded(self, contract: Contract, gate: Gate) -> EvidenceByRun | None:
        """Evidence of a recorded pass of the gate as it is, else of a failure, which tells why."""
        failed = None
        for record in self.ledger.current(contract.id, gate.id):
            if record.gate_hash == gate.hash:
                evidence = evidence_of(record, self.read)
                verdict = judge(gate, evidence).verdict
                if verdict is Verdict.PASS:
                    return evidence
                failed = evidence if verdict is Verdict.FAIL and failed is None else failed
        return failed

    def evidence_of(self, gate: Gate, fault: Fault | None = None) -> EvidenceByRun:
        """Execute what judges a gate, with a fault or clean, or read it where it was executed."""
        planned = executions(gate, fault)
        return {name: tuple(self._executor.obtain(one, gate.id) for one in many)
                for name, many in planned.items()}  # fmt: skip

    def _execute_pair(self, gate: Gate, fault: Fault) -> Pair:
        return Pair(self.evidence_of(gate, fault), self.evidence_of(gate))

    def _falsified(
        self, contract: Contract, falsifier: Falsifier, base: Result, pair: Pair
    ) -> Result:
        assert falsifier.gate and falsifier.fault
        result = self._weighed(falsifier, base, pair, Mode.LIVE)
        if result.status not in {Status.CAUGHT, Status.SURVIVED}:
            return result
        roles = {f"sabotaged:{name}": many for name, many in pair.sabotaged.items()}
        draft = Draft(
            kind="falsifier", contract=contract, subject=falsifier, gate=falsifier.gate,
            verdict=Verdict.PASS if result.status is Status.CAUGHT else Verdict.FAIL,
            reason=result.reason, judgement=judge(falsifier.gate, pair.sabotaged),
            evidence={**roles, **pair.control}, attempts=1,
            fault=falsifier.fault.model_dump(mode="json"),
        )  # fmt: skip
        return self._kept(contract, draft, result)

    def _weighed(self, falsifier: Falsifier, base: Result, pair: Pair, mode: Mode) -> Result:
        assert falsifier.gate and falsifier.fault and falsifier.expect
        sabotaged, control = (
            judge(falsifier.gate, pair.sabotaged),
            judge(falsifier.gate, pair.control),
        )
        reason = not_caught(falsifier, pair, sabotaged, control)
        shown = expected_outcome(falsifier, sabotaged)
        caught = reason is None
        return replace(
            base,
            status=Status.CAUGHT if caught else Status.SURVIVED,
            mode=mode,
            control=str(control.verdict),
            figure=(shown.figure or shown.summary) if shown else "",
            limit=(shown.limit or "") if shown else "",
            headroom_pct=shown.headroom_pct if shown else None,
            reason=reason or "",
            red=not caught,
            report="" if caught else falsifier_report(falsifier, sabotaged, control, reason or ""),
            observed=tuple(observed_of(sabotaged)),
            evidence=tuple(one.location for side in (pair.sabotaged, pair.control)
                           for many in side.values() for one in many),
        )  # fmt: skip

    # --- shared ------------------------------------------------------------------------------

    def _base(self, contract: Contract, declared: Gate | Falsifier) -> Result:
        gate = isinstance(declared, Gate)
        return Result.about(
            kind="gate" if gate else "falsifier",
            contract=contract.file,
            contract_id=contract.id,
            subject=declared.id,
            line=declared.place.line,
            status=Status.BLOCKED,
            prior=declared.claimed if isinstance(declared, Gate) else "",
            prose=declared.prose,
            binds_to=declared.binds_to if isinstance(declared, Falsifier) else "",
            seen=contract.sha,
        )

    def failed(self, contract: Contract, declared: Gate | Falsifier, error: Exception) -> Result:
        """The result of an item whose runs or evidence could not be had."""
        reason = str(error)
        if isinstance(error, OSError):
            reason = ": ".join(str(one) for one in (error.filename, error.strerror) if one)
        return replace(
            self._base(contract, declared),
            status=Status.ERROR,
            reason=reason,
            report=plain_report(declared, Status.ERROR, reason),
            red=True,
        )

    def _blocked(self, base: Result, declared: Gate | Falsifier, reason: str) -> Result:
        red = self.settings.strict or self.settings.live
        text = plain_report(declared, Status.BLOCKED, reason) if red else ""
        return replace(base, status=Status.BLOCKED, reason=reason, red=red, report=text)

    def obstacle(self, gate: Gate) -> str | None:
        """Why this session cannot execute the gate's runs, or None."""
        return self._executor.obstacle(gate.runs.values())

    def intention(self, contract: Contract, declared: Gate | Falsifier) -> str:
        """What would happen with an item, for `--collect-only`."""
        gate = declared if isinstance(declared, Gate) else declared.gate
        if gate is None or gate.prose:
            return NOTHING_EXECUTABLE
        obstacle = self.obstacle(gate)
        recorded = "replays" if self.ledger.heads(contract.id, declared.id) else "is BLOCKED:"
        how = "runs" if obstacle is None else f"{recorded} ({obstacle})"
        runs = "; ".join(f"{name}: {describe(run)}" for name, run in gate.runs.items())
        what = ", ".join(check_kind(check) for check in gate.checks)
        fault = "" if isinstance(declared, Gate) or declared.fault is None else (
            f"fault {declared.fault.fault}, "
        )  # fmt: skip
        return f"{how} {fault}{runs}; checks {what}"

    def _kept(self, contract: Contract, draft: Draft, result: Result) -> Result:
        """Record what is due, and keep the contract's text for the session's end."""
        kept = self._recording.record(draft)
        self._closing.keep(contract)
        proposed = None if kept.proposed is None else kept.proposed.to_json()
        # A falsifier is no attempt of its gate.
        attempts = draft.attempts if draft.kind == "gate" else result.attempts
        return result.changed(record=kept.sha, written=kept.written, proposed=proposed,
                              attempts=attempts)  # fmt: skip

    def finish(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Write verdicts back, once a contract; called where all results are known."""
        self._executor.stop()  # after -x or Ctrl-C there may be runs that nobody will ask for
        self._finished = [Result.from_json(one) for one in results]
        if any(one.written for one in self._finished):
            self.ledger = Ledger(self.settings.evidence)  # workers appended to it
        self._executor.discard_artifacts()
        self._closing.finish(self._finished, self.ledger, self.read)

    def summarise(self, reporter: pytest.TerminalReporter) -> None:
        """The end of the terminal's output, of the results that `finish` was told."""
        self._closing.summarise(self._finished, reporter)


def _mode(evidence: EvidenceByRun) -> Mode:
    """What evidence is that was not recorded before."""
    declared = any(one.declared for many in evidence.values() for one in many)
    return Mode.DECLARED if declared else Mode.LIVE
