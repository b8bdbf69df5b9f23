"""What the HTML report shows, as plain data: built from results, contracts, records, evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_gates.checks.base import Check, RunCheck, RunsCheck
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import EvidenceError, LedgerError
from pytest_gates.evidence import Evidence, run_hash
from pytest_gates.ledger import Ledger, Record
from pytest_gates.model.faults import FAULTS
from pytest_gates.report.comparisons import Executions, pictures_of_runs
from pytest_gates.report.draw import Picture
from pytest_gates.report.facts import (
    CheckView,
    EvidenceView,
    HistoryView,
    Reader,
    anchor,
    check_view,
    evidence_view,
    history_view,
    measured_of,
    tone_of,
)
from pytest_gates.report.grids import timeline
from pytest_gates.report.pictures import pictures
from pytest_gates.results import Mode, Result, Status
from pytest_gates.run.plan import describe

INCIDENTS = {
    fault.model_fields["fault"].annotation.__args__[0]: (fault.meaning, fault.incident)  # type: ignore[union-attr]  # a Literal of one word
    for fault in FAULTS
}


@dataclass(frozen=True, kw_only=True)
class FalsifierView:
    """An attempt to prove a gate wrong, and how it went."""

    id: str
    rule: str
    fault: str
    meaning: str
    incident: str
    status: str
    tone: str
    mode: str
    if_fails: str
    measured: str = ""
    reason: str = ""
    evidence: tuple[EvidenceView, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateView:
    """A gate with everything its verdict stands on."""

    anchor: str
    result: Result
    tone: str
    rule: str = ""
    if_fails: str = ""
    ship_blocking: bool = False
    waiver: Any = None
    runs: tuple[tuple[str, str], ...] = ()
    checks: tuple[CheckView, ...] = ()
    falsifiers: tuple[FalsifierView, ...] = ()
    evidence: tuple[EvidenceView, ...] = ()
    pictures: tuple[Picture, ...] = ()
    history: tuple[HistoryView, ...] = ()
    timeline: tuple[Picture, ...] = ()

    @property
    def unarmed(self) -> bool:
        """Whether no falsifier has ever seen it red."""
        caught = any(one.status == Status.CAUGHT for one in self.falsifiers)
        return not (caught or self.result.armed_by)


@dataclass(frozen=True, kw_only=True)
class ContractView:
    """A contract: gates that can be executed, and those of prose only."""

    file: str
    id: str
    anchor: str
    gates: tuple[GateView, ...]
    prose: tuple[tuple[Result, str], ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of the fault x gate matrix."""

    status: str = ""
    tone: str = ""
    falsifier: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report."""

    contracts: tuple[ContractView, ...]
    written: str
    program: str
    source: str
    """In words: what this session was."""
    faults: tuple[tuple[str, str], ...] = ()
    """Columns of the matrix: the fault's name and its meaning."""
    matrix: tuple[tuple[GateView, tuple[Cell, ...]], ...] = field(default=())

    @property
    def gates(self) -> tuple[GateView, ...]:
        """Gates that can be executed."""
        return tuple(gate for contract in self.contracts for gate in contract.gates)

    @property
    def prose(self) -> int:
        """Gates that say nothing a machine could execute."""
        return sum(len(contract.prose) for contract in self.contracts)

    @property
    def by_status(self) -> list[tuple[str, str, int]]:
        """Status, tone and count, replayed ones apart; the worst first."""
        rank = {"bad": 0, "warn": 1, "mute": 2, "good": 3}
        counts = Counter((_said(gate.result), gate.tone) for gate in self.gates)
        ordered = sorted(counts.items(), key=lambda item: (rank[item[0][1]], item[0][0]))
        return [(status, tone, count) for (status, tone), count in ordered]

    @property
    def armed(self) -> int:
        """Gates that a falsifier has seen red."""
        return sum(not gate.unarmed for gate in self.gates)

    @property
    def falsifiers(self) -> list[FalsifierView]:
        """All that have something to inject."""
        return [one for gate in self.gates for one in gate.falsifiers]

    @property
    def caught(self) -> int:
        """Falsifiers whose gate went red as expected."""
        return sum(one.status == Status.CAUGHT for one in self.falsifiers)


def _said(result: Result) -> str:
    word = str(result.status).lower() + (", waived" if result.waived else "")
    return f"{word}, replayed" if result.mode is Mode.REPLAYED else word


@dataclass(frozen=True)
class Sources:
    """Where a page's content comes from."""

    contracts: Mapping[str, Contract]
    """By file; one that cannot be loaded is left out."""
    ledger: Ledger
    read: Reader
    manifest: Callable[[str], Mapping[str, Any]]
    """The manifest of evidence that `read` has verified, by its location."""


def page(
    results: Sequence[Result], sources: Sources, *, written: str, program: str, source: str
) -> Page:
    """Everything the report shows."""
    builder = _Builder(results, sources)
    contracts = tuple(map(builder.contract, dict.fromkeys(one.contract for one in results)))
    gates = [gate for contract in contracts for gate in contract.gates]
    names = dict.fromkeys(one.fault for gate in gates for one in gate.falsifiers)
    rows = tuple((gate, tuple(_cell(gate, name) for name in names)) for gate in gates)
    return Page(
        contracts=contracts,
        written=written,
        program=program,
        source=source,
        faults=tuple((name, INCIDENTS.get(name, ("", ""))[0]) for name in names),
        matrix=rows if names else (),
    )


def _cell(gate: GateView, fault: str) -> Cell:
    for one in gate.falsifiers:
        if one.fault == fault:
            return Cell(status=one.status, tone=one.tone, falsifier=one.id)
    return Cell()


class _Builder:
    """Puts contracts, results, records and evidence together."""

    def __init__(self, results: Sequence[Result], sources: Sources) -> None:
        self._results = results
        self._sources = sources
        self._anchors: set[str] = set()

    def contract(self, file: str) -> ContractView:
        mine = [result for result in self._results if result.contract == file]
        told = [result for result in mine if result.kind == "gate"]
        declared = self._sources.contracts.get(file)
        gates = {one.id: one for one in declared.gates} if declared else {}
        rules = {name: gate.rule for name, gate in gates.items()}
        return ContractView(
            file=file,
            id=mine[0].contract_id,
            anchor=anchor(mine[0].contract_id, self._anchors),
            gates=tuple(
                self._gate(one, declared, gates.get(one.subject)) for one in told if not one.prose
            ),
            prose=tuple((one, rules.get(one.subject, "")) for one in told if one.prose),
        )

    def _gate(self, result: Result, contract: Contract | None, gate: Gate | None) -> GateView:
        bare = GateView(
            anchor=anchor(f"{result.contract_id}--{result.subject}", self._anchors),
            result=result,
            tone=tone_of(result),
            evidence=tuple(evidence_view(one, self._sources) for one in result.evidence),
        )
        if gate is None or contract is None:
            return bare
        history, current = self._history(contract, gate)
        return replace(
            bare,
            rule=gate.rule,
            if_fails=gate.if_fails,
            ship_blocking=gate.ship_blocking,
            waiver=gate.waiver,
            runs=tuple((run, describe(how)) for run, how in gate.runs.items()),
            checks=tuple(check_view(*pair) for pair in _pairs(gate, result.observed)),
            falsifiers=tuple(
                self._falsifier(one, result)
                for one in contract.falsifiers
                if one.binds_to == gate.id and not one.prose
            ),
            pictures=self._pictures(gate, result),
            history=tuple(history_view(record, record.sha in current) for record in history),
            timeline=tuple(timeline(history)),
        )

    def _pictures(self, gate: Gate, result: Result) -> tuple[Picture, ...]:
        by_hash: dict[str, list[Evidence]] = {}
        for one in self._read_all(result.evidence):
            by_hash.setdefault(one.run_hash, []).append(one)
        executions = {
            name: tuple(by_hash.get(run_hash(run), ())) for name, run in gate.runs.items()
        }
        own = executions.get(gate.run or "", ())
        drawn = [
            picture
            for check, found in _pairs(gate, result.observed)
            if found
            for picture in _drawn(check, found, own, executions)
        ]
        return tuple({picture.title: picture for picture in drawn}.values())

    def _read_all(self, locations: Sequence[str]) -> Iterator[Evidence]:
        for location in locations:
            # What cannot be read is told where the evidence is listed.
            with suppress(EvidenceError):
                yield self._sources.read(location)

    def _history(self, contract: Contract, gate: Gate) -> tuple[tuple[Record, ...], set[str]]:
        ledger = self._sources.ledger
        try:
            current = {record.sha for record in ledger.current(contract.id, gate.id)}
            return ledger.history(contract.id, gate.id), current
        except LedgerError:
            return (), set()  # the gate itself is TAMPERED then, and says which record

    def _falsifier(self, declared: Falsifier, gate: Result) -> FalsifierView:
        assert declared.fault is not None
        name = declared.fault.fault
        meaning, incident = INCIDENTS.get(name, ("", ""))
        seen = declared.id in gate.armed_by
        bare = FalsifierView(
            id=declared.id,
            rule=declared.rule,
            fault=name,
            meaning=meaning,
            incident=incident,
            if_fails=declared.if_fails,
            status=str(Status.CAUGHT) if seen else "not asked",
            tone="good" if seen else "mute",
            mode="in the record" if seen else "",
        )
        mine = (gate.contract, declared.id)
        for result in self._results:
            if result.kind == "falsifier" and (result.contract, result.subject) == mine:
                return replace(
                    bare,
                    status=result.said,
                    tone=tone_of(result),
                    mode=str(result.mode),
                    measured=measured_of(result),
                    reason=result.reason,
                    evidence=tuple(evidence_view(one, self._sources) for one in result.evidence),
                )
        return bare


def _drawn(
    check: Check, found: Mapping[str, Any], own: Sequence[Evidence], executions: Executions
) -> Iterator[Picture]:
    if isinstance(check, RunsCheck):
        yield from pictures_of_runs(check, found, executions)
    elif isinstance(check, RunCheck) and check.over_runs() is None:
        for execution in own[:1]:
            yield from pictures(check, found, execution)


def _pairs(
    gate: Gate, observed: Sequence[Mapping[str, Any]]
) -> list[tuple[Check, Mapping[str, Any]]]:
    """Each check with what it found; nothing where it was not judged."""
    if len(observed) != len(gate.checks):
        return [(check, {}) for check in gate.checks]
    return list(zip(gate.checks, observed, strict=True))
