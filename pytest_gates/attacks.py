"""Attacks with planted evidence: a gate's own evidence, record and contract, copied and forged.

Everything happens in a scratch folder, laid out as a project, and is looked at by the very
functions that look at the real one: `audit`, `foundation`, the readers, `judge`. Nothing here
decides what is noticed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_gates.audit import evidence_of, foundation
from pytest_gates.audit.project import audit
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.evidence import Evidence, Gpu
from pytest_gates.evidence_store import RUNS, promote, read_evidence, seal
from pytest_gates.ledger import Ledger, Record
from pytest_gates.manifest import MANIFEST
from pytest_gates.model.config import CommandRun, ForwardRun, PretrainRun
from pytest_gates.model.faults import evidence as forms
from pytest_gates.model.faults.evidence import Planted
from pytest_gates.model.sources import Frozen
from pytest_gates.model.telemetry import METRICS, decode_number, encode_line
from pytest_gates.recording import Draft, Recording
from pytest_gates.report.basis import basis_entry
from pytest_gates.results import Status
from pytest_gates.settings import Settings
from pytest_gates.timeline import RECORDS
from pytest_gates.verdict import EvidenceByRun, Judgement, judge
from pytest_gates.writeback import ContractEdit, GateEdit, render

CONTRACT = "attacked.yaml"
"""The scratch project's contract."""


@dataclass(frozen=True)
class Noticed:
    """What became of an attack."""

    verdict: str
    """`pass` if nobody noticed."""
    reason: str
    judgement: Judgement | None = None
    """What the gate's checks say, if it came to that."""

    def red(self, target: int | None) -> bool:
        """Whether the check that is expected to, by its index, went red; None: no check is."""
        if target is None:
            return True
        return self.judgement is not None and (
            self.judgement.outcomes[target].verdict is Verdict.FAIL
        )


@dataclass(frozen=True)
class Scene:
    """A gate with its recorded pass, in a folder of its own."""

    root: Path
    contract: Contract
    gate: Gate
    """As the contract reads after the pass was written back."""
    record: Record
    settings: Settings

    @property
    def evidence(self) -> Path:
        """Folder of the evidence and the ledger."""
        return self.root / "evidence"

    def read(self, location: str) -> Evidence:
        """Read evidence anew, from what the files are now."""
        return read_evidence(self.root, location)

    def looked_at(self, gate: Gate | None = None) -> Noticed:
        """What a pytest session says of the gate as it reads now."""
        gate = gate or self.gate
        ledger = Ledger(self.evidence)
        shaken = foundation(self.contract, gate, ledger, self.read)
        if shaken is not None:
            return Noticed(str(shaken[0]).lower(), shaken[1])
        records = ledger.current(self.contract.id, gate.id)
        return judged(judge(gate, evidence_of(records[0], self.read)))

    def audited(self, record: Record) -> Noticed:
        """What the audit says once the contract, on disk, cites this record as its pass.

        A finding that shows in no pytest session, since the gate is judged anew there, leaves the
        verdict `unfounded`.
        """
        basis = basis_entry(record, armed=False)
        edit = ContractEdit((GateEdit(self.gate.id, "pass", (basis,)),))
        path = self.root / CONTRACT
        path.write_text(
            render(self.contract.text, edit, self.contract.file), encoding="utf-8", newline=""
        )
        of = f"{self.contract.id}::{self.gate.id}"
        found = [
            one for one in audit(self.root, [path], self.settings.caps).findings
            if one.subject == of and one.meaning.grade == "finding"
        ]  # fmt: skip
        if not found:
            return self.looked_at(passed(self.gate, record))
        worst = next((one for one in found if one.meaning.status is not None), found[0])
        status = worst.meaning.status or Status.UNFOUNDED
        return Noticed(str(status).lower(), f"{worst.code} {worst.what}")


def judged(judgement: Judgement) -> Noticed:
    """A judgement in the attack's words."""
    deciding = judgement.deciding
    reason = judgement.reason or (deciding.summary if deciding else "")
    return Noticed(str(judgement.verdict), reason, judgement)


def carry_out(
    fault: Planted, contract: Contract, gate: Gate, evidence: EvidenceByRun, settings: Settings
) -> Noticed:
    """Carry an attack out on copies of evidence on which the gate passes."""
    with scene(contract, gate, evidence, settings) as ready:
        return ATTACKS[type(fault)](ready, fault)


@contextmanager
def scene(
    contract: Contract, gate: Gate, evidence: EvidenceByRun, settings: Settings
) -> Iterator[Scene]:
    """The gate's pass recorded in a scratch project; gone afterwards."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attack-", dir=settings.cache) as folder:
        root = Path(folder)
        own = replace(settings, root=root, session="attack", record="always")
        for one in (one for many in evidence.values() for one in many):
            promote(settings.root / one.location, own.evidence)
        moved = {name: tuple(_there(root, one) for one in many) for name, many in evidence.items()}
        judgement = judge(gate, moved)
        assert judgement.verdict is Verdict.PASS, "attacks begin with a gate that passes"
        draft = Draft(
            kind="gate", contract=contract, subject=gate, gate=gate, verdict=judgement.verdict,
            reason=judgement.reason, judgement=judgement, evidence=moved, fault=None, attempts=1,
        )  # fmt: skip
        ledger = Ledger(own.evidence)
        record = ledger.get(Recording(own, ledger).record(draft).sha)
        yield Scene(root, contract, passed(gate, record), record, own)


def _there(root: Path, one: Evidence) -> Evidence:
    return read_evidence(root, f"evidence/{RUNS}/{one.location.rpartition('/')[2]}")


def passed(gate: Gate, record: Record) -> Gate:
    """The gate as it reads once its pass is written back."""
    return replace(gate, claimed="pass", basis=(basis_entry(record, armed=False),))


# --- the attacks -------------------------------------------------------------------------------


def _edited(ready: Scene) -> Noticed:
    folder = ready.root / ready.record.evidence[0]["location"]
    telemetry = sorted(folder.glob("telemetry-*.jsonl"))
    path = telemetry[0] if telemetry else folder / "manifest.json"
    data = bytearray(path.read_bytes())
    at = next(index for index in reversed(range(len(data))) if chr(data[index]).isdigit())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    return ready.looked_at()


def _stale(ready: Scene) -> Noticed:
    location = ready.record.evidence[0]["location"]
    earlier = resealed(ready, location, started="2020-01-01T00:00:00Z")
    folder = ready.root / location
    for path in sorted(folder.iterdir()):
        path.unlink()
    for path in sorted(earlier.iterdir()):
        path.rename(folder / path.name)
    return ready.looked_at()


def resealed(ready: Scene, location: str, **changes: Any) -> Path:
    """The same files sealed once more, consistently, with something else said of them."""
    one, folder = ready.read(location), ready.root / location
    kept = {
        "run": one.run, "host": one.host, "status": one.status, "reason": one.reason,
        "wall_ms": one.wall_ms, "pid": one.pid, "run_folder": one.run_folder,
        "started": one.started, "repetition": one.repetition, "group": one.group,
        "declared": one.declared, "code": one.code, "notes": one.notes, "ranks": one.ranks,
        "files": {path.name: path for path in folder.iterdir() if path.name != "manifest.json"},
    }  # fmt: skip
    return seal(ready.root / "planted", **(kept | changes))


def _offered(ready: Scene, change: Callable[[Evidence], dict[str, Any]]) -> Noticed:
    """Judge the gate by evidence that was changed before it was sealed."""
    offered: dict[str, list[Evidence]] = {}
    for reference in ready.record.evidence:
        changes = change(ready.read(reference["location"]))
        folder = resealed(ready, reference["location"], **changes)
        offered.setdefault(reference["role"], []).append(
            ready.read(folder.relative_to(ready.root).as_posix())
        )
    return judged(judge(ready.gate, {role: tuple(many) for role, many in offered.items()}))


def _foreign_configuration(ready: Scene) -> Noticed:
    def other_seed(one: Evidence) -> dict[str, Any]:
        if isinstance(one.run, CommandRun):
            other = Frozen({**one.run.environment, "ANOTHER_CONFIGURATION": "1"})
            return {"run": one.run.model_copy(update={"environment": other})}
        if not isinstance(one.run, PretrainRun | ForwardRun):
            return {}
        return {"run": one.run.model_copy(update={"seed": one.run.seed + 1})}

    return _offered(ready, other_seed)


def _foreign_gpu(ready: Scene) -> Noticed:
    gpu = Gpu("an imaginary GPU", None, None)

    def elsewhere(one: Evidence) -> dict[str, Any]:
        ranks = tuple(replace(rank, gpu=gpu) for rank in one.ranks)
        return {"host": replace(one.host, gpu=gpu), "ranks": ranks}

    return _offered(ready, elsewhere)


def _typed(ready: Scene) -> Noticed:
    return ready.looked_at(replace(ready.gate, basis=()))


def _deleted(ready: Scene) -> Noticed:
    ledger = Ledger(ready.evidence)
    middle = replace(ready.record, parents=(ready.record.sha,), attempts=2)
    newest = replace(ready.record, parents=(ledger.append(middle),), attempts=3)
    newest = ledger.get(ledger.append(newest))
    (ready.evidence / RECORDS / middle.sha[:2] / f"{middle.sha}.json").unlink()
    return ready.audited(newest)


def _loosened(ready: Scene) -> Noticed:
    # What was recorded asked for more than what is declared now.
    stricter = replace(ready.gate, requires={**ready.gate.requires, "driver": "another"})
    record = replace(ready.record, gate_hash=stricter.hash)
    for path in (ready.evidence / RECORDS).glob("*/*.json"):
        path.unlink()
    ledger = Ledger(ready.evidence)
    return ready.audited(ledger.get(ledger.append(record)))


Line = dict[str, Any]


def _planted(ready: Scene, told: Callable[[Line], Line]) -> Noticed:
    """Judge the gate by evidence whose telemetry says something else, in its first execution.

    That is the first of the gate's own run, or of the first run that its checks name: the others
    stay as they are, or a comparison would see no difference.
    """
    roles = [reference["role"] for reference in ready.record.evidence]
    role = ready.gate.run or roles[0]
    location = next(one["location"] for one in ready.record.evidence if one["role"] == role)
    folder = ready.root / location
    changed: dict[str, Path] = {}
    for path in sorted(folder.glob("telemetry-*.jsonl")):
        before = path.read_text(encoding="utf-8").splitlines(keepends=True)
        after = [encode_line(told(json.loads(line))) for line in before]
        if [json.loads(line) for line in after] != [json.loads(line) for line in before]:
            changed[path.name] = ready.root / path.name
            changed[path.name].write_text("".join(after), encoding="utf-8")
    if not changed:
        return Noticed(str(Verdict.PASS), f"run {role} tells nothing of the kind to change")
    kept = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}

    def change(one: Evidence) -> dict[str, Any]:
        return {"files": kept | changed} if one.location == location else {}

    return _offered(ready, change)


def _planted_fact(ready: Scene, fault: forms.PlantedFact) -> Noticed:
    def told(line: Line) -> Line:
        about = line["kind"] == "fact" and line["name"] == fault.fact
        return line | {"value": fault.value} if about else line

    return _planted(ready, told)


def _planted_metric(ready: Scene, fault: forms.PlantedMetric) -> Noticed:
    scope = METRICS[fault.metric].scope
    first, last = fault.at or (0, 2**53)

    def told(line: Line) -> Line:
        if line["kind"] != scope or fault.metric not in line or not first <= line[scope] <= last:
            return line
        value = fault.value
        if fault.factor is not None:
            value = (decode_number(line[fault.metric]) or 0.0) * fault.factor
        return line | {fault.metric: value}

    return _planted(ready, told)


ATTACKS: dict[type[Planted], Callable[[Scene, Any], Noticed]] = {
    forms.EditedEvidence: lambda ready, _: _edited(ready),
    forms.StaleEvidence: lambda ready, _: _stale(ready),
    forms.ForeignConfiguration: lambda ready, _: _foreign_configuration(ready),
    forms.ForeignGpu: lambda ready, _: _foreign_gpu(ready),
    forms.PlantedFact: _planted_fact,
    forms.PlantedMetric: _planted_metric,
    forms.TypedVerdict: lambda ready, _: _typed(ready),
    forms.DeletedRecord: lambda ready, _: _deleted(ready),
    forms.LoosenedContract: lambda ready, _: _loosened(ready),
}
"""How each attack is carried out."""
