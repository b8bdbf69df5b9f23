"""Two runs at a time in one session: what begins early, what ends with it, what stays alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from project import PLUGIN, Project

from pytest_gates.run.bench import Bench
from pytest_gates.run.drivers import DRIVERS
from pytest_gates.run.plan import Execution

WAIT_S = 300.0
RUNS = """
    contract_id: C-SIDE
    runs:
      a:
        driver: pretrain
        device: cpu
        model: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 32, vocab: 256}
        data: {corpus: python-stdlib}
        seq_len: 16
        batch_size: 2
        steps: 40
        validation_batches: 0
      b: {from: a, seed: 1}
      long: {from: a, steps: 90000}
      longer: {from: long, seed: 1}
"""
GATE = """
      - id: GATE-{name}
        run: {name}
        checks: [{{kind: {check}}}]
        verdict: pending
"""
FOUR = "gates_cpu_slots=4"


def contract(*named: tuple[str, str]) -> str:
    return RUNS + "    gates:" + "".join(GATE.format(name=n, check=c) for n, c in named)


def executed(root: Path) -> dict[int, dict[str, Any]]:
    """The manifests of all evidence by the seeds of their runs."""
    files = [*root.glob(".pytest_gates/evidence/*/manifest.json"),
             *root.glob("evidence/runs/*/manifest.json")]  # fmt: skip
    return {one["run"]["seed"]: one for one in map(json.loads, map(Path.read_text, files))}


def within(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the later of the two began while the earlier one still went on."""
    first, second = sorted((one, other), key=lambda run: str(run["started"]))
    ended = datetime.fromisoformat(first["started"]) + timedelta(milliseconds=first["wall_ms"])
    return datetime.fromisoformat(second["started"]) < ended


def test_the_run_of_the_next_gate_begins_while_the_first_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, produce = threading.Barrier(2, timeout=WAIT_S), DRIVERS["pretrain"]

    def meeting(bench: Bench, execution: Execution, holder: str) -> list[Path]:
        together.wait()  # for the other one to have begun as well
        return produce(bench, execution, holder)

    monkeypatch.setitem(DRIVERS, "pretrain", meeting)
    project.contract(contract(("a", "required_fields"), ("b", "required_fields")))
    project.run("-o", FOUR).assert_outcomes(passed=2)
    assert len(executed(project.root)) == 2


def test_nothing_begins_beside_a_run_whose_time_is_judged(project: Project) -> None:
    timed = "bounded, metric: wall_ms, below: 1.0e+9"
    project.contract(contract(("a", timed), ("b", "required_fields")))
    project.run("-o", FOUR).assert_outcomes(passed=2)
    runs = executed(project.root)
    assert not within(runs[0], runs[1])


def test_runs_beside_each_other_are_the_runs_alone(project: Project) -> None:
    project.contract(contract(("a", "required_fields"), ("b", "required_fields")))
    project.run("-o", FOUR, "--gates-record", "never")
    beside = told(project.root)
    project.run("-o", "gates_cpu_slots=1", "--gates-record", "never")
    both = told(project.root)
    assert len(both) == 2 * len(beside) == 4
    assert len(set(both.values())) == 2


def told(root: Path) -> dict[str, str]:
    """What each execution told of its losses and norms, bit for bit."""
    found = {}
    for file in root.glob(".pytest_gates/evidence/*/telemetry-0.jsonl"):
        lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        steps = [(one["train_loss"], one["grad_norm"]) for one in lines if one["kind"] == "step"]
        found[file.parent.name] = json.dumps(steps)
    return found


def test_ctrl_c_ends_the_runs_that_were_begun_early_too(project: Project) -> None:
    project.contract(contract(("long", "required_fields"), ("longer", "required_fields")))
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGIN, "--gates", "contracts", "-o", FOUR],
        cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    staging = project.root / ".pytest_gates" / "staging"
    until = time.monotonic() + WAIT_S
    while len(list(staging.glob("*/out/telemetry-0.jsonl"))) < 2:
        assert time.monotonic() < until
        assert session.poll() is None
        time.sleep(0.02)
    below = psutil.Process(session.pid).children(recursive=True)
    assert len(below) >= 3, "the forkserver and two runs"
    session.send_signal(signal.SIGINT)
    output, _ = session.communicate(timeout=WAIT_S)
    assert "KeyboardInterrupt" in output
    _, alive = psutil.wait_procs(below, timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert list(staging.glob("*")) == []
    assert executed(project.root) == {}
