"""Attacks with planted evidence: a gate's own evidence, record and contract, copied and forged.

Everything happens in a scratch folder, laid out as a project, and is looked at by the very
functions that look at the real one: `foundation`, the readers, `judge`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_gates.audit import evidence_of, foundation
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.evidence import Evidence, Gpu
from pytest_gates.evidence_store import RUNS, promote, read_evidence, seal
from pytest_gates.ledger import Ledger, Record
from pytest_gates.model.config import CommandRun, ForwardRun, PretrainRun
from pytest_gates.model.faults import evidence as forms
from pytest_gates.model.faults.evidence import Planted
from pytest_gates.model.sources import Frozen
from pytest_gates.recording import Draft, Recording
from pytest_gates.report.basis import basis_entry
from pytest_gates.settings import Settings
from pytest_gates.timeline import RECORDS
from pytest_gates.verdict import EvidenceByRun, Judgement, judge


@dataclass(frozen=True)
class Noticed:
    """What became of an attack."""

    verdict: str
    """`pass` if nobody noticed."""
    reason: str


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
        """What the program says of the scene as it is now."""
        gate = gate or self.gate
        ledger = Ledger(self.evidence)
        shaken = foundation(self.contract, gate, ledger, self.read)
        if shaken is not None:
            return Noticed(str(shaken[0]).lower(), shaken[1])
        missing = ledger.missing_parents()
        if missing:
            child, parents = next(iter(missing.items()))
            return Noticed("tampered", f"record {child[:12]} follows {parents[0][:12]}, not there")
        records = ledger.current(self.contract.id, gate.id)
        if records[0].gate_hash != gate.hash:
            return Noticed("unfounded", f"record {records[0].sha[:12]} judged other checks")
        return judged(judge(gate, evidence_of(records[0], self.read)))


def judged(judgement: Judgement) -> Noticed:
    """A judgement in the attack's words."""
    deciding = judgement.deciding
    reason = judgement.reason or (deciding.summary if deciding else "")
    return Noticed(str(judgement.verdict), reason)


def carry_out(
    fault: Planted, contract: Contract, gate: Gate, evidence: EvidenceByRun, settings: Settings
) -> Noticed:
    """Carry an attack out on copies of evidence on which the gate passes."""
    with scene(contract, gate, evidence, settings) as ready:
        return ATTACKS[type(fault)](ready)


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
    return replace(gate, claimed="pass", basis=(basis_entry(record, record.sha, armed=False),))


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
        "declared": one.declared, "code": one.code, "notes": one.notes,
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
    return _offered(ready, lambda one: {"host": replace(one.host, gpu=gpu)})


def _typed(ready: Scene) -> Noticed:
    return ready.looked_at(replace(ready.gate, basis=()))


def _deleted(ready: Scene) -> Noticed:
    ledger = Ledger(ready.evidence)
    middle = replace(ready.record, parents=(ready.record.sha,), attempts=2)
    newest = replace(ready.record, parents=(ledger.append(middle),), attempts=3)
    newest = ledger.get(ledger.append(newest))
    (ready.evidence / RECORDS / middle.sha[:2] / f"{middle.sha}.json").unlink()
    return ready.looked_at(passed(ready.gate, newest))


def _loosened(ready: Scene) -> Noticed:
    # What was recorded asked for more than what is declared now.
    stricter = replace(ready.gate, requires={**ready.gate.requires, "driver": "another"})
    record = replace(ready.record, gate_hash=stricter.hash)
    for path in (ready.evidence / RECORDS).glob("*/*.json"):
        path.unlink()
    ledger = Ledger(ready.evidence)
    return ready.looked_at(passed(ready.gate, ledger.get(ledger.append(record))))


ATTACKS: dict[type[Planted], Callable[[Scene], Noticed]] = {
    forms.EditedEvidence: _edited,
    forms.StaleEvidence: _stale,
    forms.ForeignConfiguration: _foreign_configuration,
    forms.ForeignGpu: _foreign_gpu,
    forms.TypedVerdict: _typed,
    forms.DeletedRecord: _deleted,
    forms.LoosenedContract: _loosened,
}
"""How each attack is carried out."""
