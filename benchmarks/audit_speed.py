"""How long the audit and the timeline of many records take.

    python -m benchmarks.audit_speed [--records 100000] [--folder DIR]

Makes a project of so many records, each with evidence of its own of about 2 KiB of telemetry, then
audits it and lists its timelines, each in a process of its own as a user would start it; audits
this project's own contracts too. The bounds for 100,000 records on 2 cores are 20 s for the audit
and 3 s for the timeline, and 2 s for the project's own. A folder that is given is kept, and used
again if it was made before.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT, Cost, cost, environment, report, scratch, spread
from pytest_gates import __version__
from pytest_gates.canonical import canonical
from pytest_gates.contract.load import contract_from
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.contract.runs import Caps
from pytest_gates.evidence import Gpu, HostInfo, run_hash
from pytest_gates.evidence_store import read_evidence
from pytest_gates.ledger import EvidenceRef, Record, record_files, shards_of
from pytest_gates.manifest import FORMAT
from pytest_gates.model.telemetry import encode_line
from pytest_gates.recording import host_of, observed_of, runs_of
from pytest_gates.verdict import EVALUATOR, judge

GATES = 50
STEPS = 30
HOST = HostInfo(gpu=Gpu("NVIDIA H200", "GPU-1", 143_771), driver="570.1", torch="2.11.0")
GATE = """
  - id: GATE-{0:03}
    rule: The median step is quick, and every loss is a number.
    run: train
    checks:
      - {{kind: budget, metric: wall_ms, steps: [0, 29], statistic: median, below: {1}}}
      - {{kind: finite, metrics: [train_loss]}}
    verdict: pending
"""
HEAD = """contract_id: C-MANY
version: 1.0.0
runs:
  train:
    driver: pretrain
    device: cuda:0
    model: llama-370m
    data: {corpus: python-stdlib, tokenizer: bpe-50257}
    seq_len: 512
    batch_size: 16
    steps: 30
gates:"""


def lay_down(folder: Path, name: str, data: bytes) -> None:
    """Without fsync: a benchmark's files need not survive a power cut."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def evidence(root: Path, gate: Gate, number: int) -> str:
    """One execution on disk; its location."""
    run = gate.runs["train"]
    telemetry = "".join(
        encode_line({"kind": "step", "step": step, "train_loss": 10.5 - step / 7,
                     "wall_ms": 40.0 + (step * 7 + number) % 9 + number / 1e6})
        for step in range(STEPS)
    ).encode()  # fmt: skip
    file = {"sha256": hashlib.sha256(telemetry).hexdigest(), "bytes": len(telemetry)}
    manifest = canonical(
        {
            "format": FORMAT,
            "key": {"run_hash": run_hash(run), "fault": None, "repetition": 0, "group": None},
            "run": run.model_dump(mode="json"),
            "host": HOST,
            "status": "COMPLETED",
            "reason": None,
            "wall_ms": 1500.0,
            "pid": 4711,
            "run_folder": True,
            "started": None,
            "declared": False,
            "code": None,
            "notes": (),
            "files": {"telemetry-0.jsonl": file},
        }
    )
    name = f"{run_hash(run)[:10]}-{hashlib.sha256(manifest).hexdigest()[:10]}"
    folder = root / "evidence" / "runs" / name
    lay_down(folder, "telemetry-0.jsonl", telemetry)
    lay_down(folder, "manifest.json", manifest)
    return f"evidence/runs/{name}"


def record(root: Path, contract: Contract, gate: Gate, number: int, parent: str | None) -> str:
    """One record on disk, judged by the program itself; its hash."""
    location = evidence(root, gate, number)
    read = read_evidence(root, location)
    judgement = judge(gate, {"train": (read,)})
    made = Record(
        kind="gate",
        contract=contract.id,
        subject=gate.id,
        gate_hash=gate.hash,
        evaluator=EVALUATOR,
        evidence=(EvidenceRef(role="train", repetition=0, id=read.id, location=location),),
        observed=tuple(observed_of(judgement)),
        verdict=judgement.verdict,
        reason=None,
        host=host_of((read,)),
        run=runs_of(gate),
        attempts=1,
        fault=None,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + number)),
        program=__version__,
        code=None,
        parents=() if parent is None else (parent,),
    )
    lay_down(root / "evidence" / "records" / made.sha[:2], f"{made.sha}.json", canonical(made))
    return made.sha


def project(root: Path, records: int) -> None:
    """A contract of many gates, each with a long history."""
    text = HEAD + "".join(GATE.format(index, 100 + index) for index in range(GATES))
    lay_down(root / "contracts", "many.yaml", text.encode())
    contract = contract_from(text, "contracts/many.yaml", Caps())
    newest: dict[str, str] = {}
    for number in range(records):
        gate = contract.gates[number % GATES]
        newest[gate.id] = record(root, contract, gate, number, newest.get(gate.id))
    command(root, "sync", "contracts")


def command(root: Path, *words: str) -> Cost:
    """What one command takes, started as a user starts it."""
    return cost([sys.executable, "-m", "pytest_gates.cli", *words], root, environment(BYTECODE))


BYTECODE = Path(tempfile.gettempdir()) / "pytest-gates-bench-bytecode"
REPETITIONS = 3
COMMANDS = {
    "audit": ("audit", "contracts"),
    "history": ("history",),
    "history_of_one_gate": ("history", "GATE-000"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    options, _ = parser.parse_known_args()
    raw: dict[str, list[Cost]] = {}
    with scratch() as temporary:
        root = options.folder or temporary
        if not (root / "contracts").is_dir():
            project(root, options.records)
        for name, words in COMMANDS.items():
            raw[name] = [command(root, *words) for _ in range(REPETITIONS)]
        found = sum(1 for _ in record_files(shards_of(root / "evidence" / "records")))
    raw["own_audit"] = [command(ROOT, "audit", "contracts") for _ in range(REPETITIONS)]
    figures: dict[str, object] = {"records": found}
    for name, many in raw.items():
        figures[f"{name}_wall_s"] = spread([one.wall_s for one in many])
        figures[f"{name}_cpu_s"] = spread([one.cpu_s for one in many])
    report("audit_speed", figures, raw)


if __name__ == "__main__":
    main()
