"""Write-back of one verdict into a contract of 1 MiB, the largest that is loaded.

    python -m benchmarks write_back

Two contracts of that size: `dense`, of as many gates as the limit of parse events allows, and
`prose`, in which a few gates stand among long texts. What is timed is the program's own `write`:
lock, read, parse, splice, parse again, compare, replace, fsync, and the diff it returns.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import report, scratch, spread
from pytest_gates.contract.guard import MAX_BYTES, MAX_EVENTS
from pytest_gates.contract.nodes import parse_document
from pytest_gates.writeback import ContractEdit, GateEdit, write

REPETITIONS = 15
HEAD = "contract_id: C-LARGE\nversion: 1.0.0\nchangelog: []\ngates:\n"
GATE = """\
  - id: GATE-{number:05}
    rule: {rule}
    run: train        # what is claimed, and nothing else
    checks:
      - {{kind: bounded, metric: train_loss, below: {number}.5}}
    verdict: pending
"""
EVENTS_A_GATE = 21
EVENTS_SPARE = 200
SENTENCE = "The loss of every step stays below what was agreed, whatever the weather. "
ENTRY = {
    "record": "0123456789abcdef" * 4,
    "verdict": "pass",
    "run": "train",
    "measured": [{"check": "bounded", "verdict": "pass", "figure": "max 4.1", "limit": "< 5.5",
                  "headroom_pct": 25.45, "window": [0, 99], "n": 100}],
    "host": {"torch": "2.13.0", "declared": False},
    "evidence": ["evidence/runs/0123456789-0123456789/manifest.json"],
    "date": "2026-11-26T00:00:00Z",
    "discharge_status": "PARTIAL_ALGORITHM_LEVEL",
}  # fmt: skip


ROOM = 4096
"""Left for what is written, so that the contract still loads afterwards."""


def contract(gates: int) -> str:
    """A contract of so many gates, whose rules fill it up to the limit."""
    bare = len(HEAD) + sum(len(GATE.format(number=number, rule="")) for number in range(gates))
    words = (MAX_BYTES - ROOM - bare) // gates
    rule = (SENTENCE * (words // len(SENTENCE) + 1))[:words].rstrip()
    return HEAD + "".join(GATE.format(number=number, rule=rule) for number in range(gates))


@dataclass(frozen=True)
class Took:
    """One write, in milliseconds by the clock and of the processor."""

    wall_ms: float
    cpu_ms: float


def measured(folder: Path, text: str) -> list[Took]:
    """Each write, one gate after the other."""
    folder.mkdir()
    parse_document(text, "large.yaml")  # it is one that would be loaded
    path, took = folder / "large.yaml", []
    path.write_text(text, encoding="utf-8")
    for number in range(REPETITIONS + 1):
        edit = GateEdit(f"GATE-{number:05}", "pass", (ENTRY,), None)
        changes = ContractEdit((edit,), f"{{version}} (2026-11-26): {edit.gate_id} pending -> pass")
        # As it was: with an entry more each time it would grow beyond the limit.
        path.write_text(text, encoding="utf-8")
        begun, before = time.perf_counter(), time.process_time()
        diff = write(path, text, changes, "large.yaml", folder / "locks")
        wall, cpu = time.perf_counter() - begun, time.process_time() - before
        took.append(Took(wall * 1000, cpu * 1000))
        assert "verdict: pass" in diff
    return took[1:]  # the first one imports


def main() -> None:
    with scratch() as folder:
        dense, prose = contract((MAX_EVENTS - EVENTS_SPARE) // EVENTS_A_GATE), contract(40)
        raw = {"dense": measured(folder / "dense", dense),
               "prose": measured(folder / "prose", prose)}  # fmt: skip
    figures: dict[str, object] = {}
    for name, text in (("dense", dense), ("prose", prose)):
        figures[f"{name}_bytes"] = len(text.encode())
        figures[f"{name}_ms"] = spread([one.wall_ms for one in raw[name]])
        figures[f"{name}_cpu_ms"] = spread([one.cpu_ms for one in raw[name]])
    report(
        "write_back", figures, {name: [asdict(one) for one in many] for name, many in raw.items()}
    )


if __name__ == "__main__":
    main()
