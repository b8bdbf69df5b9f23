from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_gates.canonical import canonical, digest
from pytest_gates.checks.base import Verdict
from pytest_gates.errors import LedgerError
from pytest_gates.ledger import EvidenceRef, Ledger, Record, RecordHost, RunRef

HASH = "ab" * 32


def record(**changes: Any) -> Record:
    """A record of gate G of contract C; `gpu` and `run` are shortcuts."""
    host = RecordHost(
        gpu=changes.pop("gpu", "NVIDIA H200"), driver="570", torch="2.11", declared=False
    )
    run = RunRef(name="pretrain", hash=digest(changes.pop("run", "pretrain")))
    cited = EvidenceRef(role="pretrain", repetition=0, id=HASH, location="evidence/runs/ab-cd")
    settings: dict[str, Any] = {
        "kind": "gate", "contract": "C", "subject": "G", "gate_hash": HASH, "evaluator": "1",
        "evidence": (cited,), "observed": ({"check": "budget", "value": 45.1, "n": 80},),
        "verdict": Verdict.PASS, "reason": None, "host": host, "run": run, "attempts": 1,
        "fault": None, "time": "2026-01-02T03:04:05Z", "program": "0.1.0", "code": None,
    }  # fmt: skip
    return Record(**(settings | changes))


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return tmp_path / "evidence"


def path_of(evidence: Path, sha: str) -> Path:
    return evidence / "records" / sha[:2] / f"{sha}.json"


def test_a_record_is_canonical_json_under_its_own_hash(evidence: Path) -> None:
    made = record(observed=({"value": float("nan"), "window": (20, 99)},))
    sha = Ledger(evidence).append(made)
    assert path_of(evidence, sha).read_bytes() == canonical(made)
    read = Ledger(evidence).get(sha)
    assert read.observed == ({"value": "NaN", "window": [20, 99]},)
    assert (read.sha, read.verdict, read.host["gpu"]) == (sha, Verdict.PASS, "NVIDIA H200")
    assert dataclasses.replace(read, observed=made.observed) == made


def test_appending_the_same_twice_is_one_record(evidence: Path) -> None:
    ledger = Ledger(evidence)
    assert ledger.append(record()) == ledger.append(record())
    assert len(Ledger(evidence).records()) == 1
    assert [path.suffix for path in evidence.rglob("*") if path.is_file()] == [".json"]


def test_an_empty_ledger_has_nothing(evidence: Path) -> None:
    ledger = Ledger(evidence)
    assert (ledger.heads("C", "G"), ledger.current("C", "G"), ledger.problems) == ((), (), ())
    with pytest.raises(LedgerError, match=r"evidence/records/ab/(ab){32}.json: no such record"):
        ledger.get(HASH)


def test_history_follows_ancestry_and_not_the_clock(evidence: Path) -> None:
    ledger = Ledger(evidence)
    first = ledger.append(record(time="2026-03-01T00:00:00Z"))
    second = ledger.append(record(time="2026-02-01T00:00:00Z", parents=(first,)))
    third = ledger.append(record(time="2026-01-01T00:00:00Z", parents=(second,)))
    ledger.append(record(subject="OTHER"))
    for seen in (ledger, Ledger(evidence)):
        assert [one.sha for one in seen.history("C", "G")] == [third, second, first]
        assert seen.heads("C", "G") == (third,)
        assert [one.sha for one in seen.current("C", "G")] == [third]


def test_current_keeps_the_newest_of_each_run_and_gpu(evidence: Path) -> None:
    ledger = Ledger(evidence)
    h200 = ledger.append(record())
    rtx = ledger.append(record(gpu="NVIDIA GeForce RTX 4090", parents=(h200,)))
    cpu = ledger.append(record(gpu=None, run="smoke", parents=(rtx,)))
    again = ledger.append(record(verdict=Verdict.FAIL, parents=(cpu,)))
    assert {one.sha for one in ledger.current("C", "G")} == {again, cpu, rtx}


def test_after_a_merge_both_heads_stand_and_the_worse_verdict_counts(evidence: Path) -> None:
    ledger = Ledger(evidence)
    base = ledger.append(record())
    ours = ledger.append(record(verdict=Verdict.FAIL, time="2026-01-03T00:00:00Z", parents=(base,)))
    theirs = ledger.append(record(time="2026-01-04T00:00:00Z", parents=(base,)))
    assert ledger.heads("C", "G") == tuple(sorted((ours, theirs)))
    assert [one.sha for one in ledger.current("C", "G")] == [ours]
    settled = ledger.append(record(time="2026-01-05T00:00:00Z", parents=ledger.heads("C", "G")))
    assert [one.sha for one in ledger.current("C", "G")] == [settled]


def test_missing_parents_are_told(evidence: Path) -> None:
    ledger = Ledger(evidence)
    parent = ledger.append(record())
    child = ledger.append(record(parents=(parent,), verdict=Verdict.FAIL))
    assert ledger.missing_parents() == {}
    path_of(evidence, parent).unlink()
    assert Ledger(evidence).missing_parents() == {child: (parent,)}


def test_a_changed_record_is_found_and_named(evidence: Path) -> None:
    sha = Ledger(evidence).append(record(verdict=Verdict.FAIL))
    path = path_of(evidence, sha)
    path.write_bytes(path.read_bytes().replace(b'"fail"', b'"pass"'))
    ledger = Ledger(evidence)
    with pytest.raises(LedgerError, match=f"^evidence/records/{sha[:2]}/{sha}.json: SHA-256 is"):
        ledger.current("C", "G")
    assert len(ledger.problems) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: json.dumps(value, indent=1).encode(), "not canonical"),
        (lambda value: canonical(value | {"verdict": "passed"}), "verdict: "),
        (lambda value: canonical(value | {"extra": 1}), "extra: "),
        (lambda value: canonical(value | {"attempts": "1"}), "attempts: "),
        (lambda value: canonical(value | {"run": {"name": "x"}}), "run.hash: "),
        (
            lambda value: canonical({k: v for k, v in value.items() if k != "format"}),
            "lacks format",
        ),
        (lambda value: b"[]", "Input should be"),
        (lambda value: b"{", "Expecting"),
    ],
)
def test_a_malformed_record_is_named(evidence: Path, spoil: Any, message: str) -> None:
    data = spoil(json.loads(canonical(record())))
    path = path_of(evidence, hashlib.sha256(data).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(LedgerError, match=f"{path.name}: .*{message}"):
        Ledger(evidence).records()


def test_a_record_behind_a_link_or_of_another_name_is_refused(evidence: Path) -> None:
    sha = Ledger(evidence).append(record())
    path = path_of(evidence, sha)
    moved = path.rename(evidence / "moved")
    path.symlink_to(moved)
    (path.parent / "notes.txt").write_text("hello")
    problems = Ledger(evidence).problems
    assert len(problems) == 2
    assert "not a regular file" in problems[0]
    assert "notes.txt: SHA-256 is" in problems[1]


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be written"):
        Ledger(tmp_path / "evidence").append(record())


APPEND = """
import sys
from pathlib import Path
from test_ledger import record
from pytest_gates.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(40):
    ledger.append(record(subject=f"G{number % 20}"))
    ledger.append(record(subject=sys.argv[2], attempts=number + 1))
"""


def test_processes_append_at_the_same_time(evidence: Path) -> None:
    path = [str(Path(__file__).parents[1]), *sys.path]
    code = f"import sys; sys.path[:0] = {path!r}\n{APPEND}"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(evidence), name]) for name in ("A", "B")
    ]
    assert [process.wait() for process in running] == [0, 0]
    ledger = Ledger(evidence)
    assert len(ledger.records()) == 20 + 2 * 40
    assert len(ledger.heads("C", "A")) == 40


def test_thousands_of_records_are_read_quickly(evidence: Path) -> None:
    for number in range(1000):
        made = record(attempts=number + 1)
        path = path_of(evidence, made.sha)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical(made))
    start = time.thread_time()
    assert len(Ledger(evidence).history("C", "G")) == 1000
    assert time.thread_time() - start < 1.0  # about 0.07 s; the rest allows for a busy machine


def test_a_record_that_nobody_would_read_is_not_written(evidence: Path) -> None:
    """One too large would make the whole ledger unreadable."""
    large = record(observed=[{"summary": "x" * 2**20}])
    with pytest.raises(LedgerError, match=r"the limit is 1048576; nothing was written"):
        Ledger(evidence).append(large)
    assert not list(evidence.rglob("*.json"))
