"""Runs that continue another run, and runs that take turns, declared in a contract and executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from project import Project

from pytest_gates.contract.load import contract_from
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError
from pytest_gates.evidence import run_hash
from pytest_gates.model.config import PretrainRun
from pytest_gates.run.worker import Order, Worker

HEAD = """
contract_id: C-RESUME
runs:
  whole:
    driver: pretrain
    device: cpu
    model: {hidden: 16, layers: 2, heads: 2, kv_heads: 1, intermediate: 24, vocab: 256}
    data: {corpus: python-stdlib}
    seq_len: 8
    batch_size: 4
    steps: 9
    validate_every: 3
    checkpoint: epoch
    deterministic: true
    optimizer: {warmup_steps: 2}
  killed: {from: whole, stimulus: {kind: kill, step: 7}}
"""


def load(runs: str) -> Any:
    return contract_from(HEAD + runs, "claims.yaml", Caps())


def test_a_run_names_the_run_it_continues_and_its_hash_covers_it() -> None:
    runs = load("  after: {from: whole, resume: {run: killed}}\n").runs
    assert runs["after"].resume.run == runs["killed"]
    assert runs["after"].resume.epoch == "last"
    other = load("  after: {from: whole, resume: {run: killed}}\n".replace("killed", "whole")).runs[
        "after"
    ]
    assert run_hash(runs["after"]) != run_hash(other)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (
            "  a: {from: whole, resume: {run: wole}}",
            "no run `wole` to resume; did you mean",
        ),
        (
            "  a: {from: whole, resume: {run: b}}\n  b: {from: whole, resume: {run: a}}",
            "continue each other in a circle",
        ),
        ("  a: {from: whole, resume: {run: whole}, epochs: 1}", "1 epochs of 3 steps reach 3"),
        (
            "  bare: {from: whole, checkpoint: never}\n  a: {from: whole, resume: {run: bare}}",
            "the run that is resumed keeps no checkpoint",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused_at_its_place(run: str, told: str) -> None:
    with pytest.raises(ContractError) as refused:
        load(run + "\n")
    assert told in str(refused.value)
    assert "claims.yaml:17:" in str(refused.value) or "claims.yaml:18:" in str(refused.value)


def test_a_killed_run_is_continued_as_if_it_had_never_been_killed(project: Project) -> None:
    project.contract(
        HEAD
        + """
  after: {from: whole, resume: {run: killed}}
gates:
  - id: GATE-SAME
    rule: Continuing equals never having stopped.
    run: after
    checks:
      - kind: equal_runs
        of: [whole, after]
        metrics: [train_loss, param_hash, data_hash]
        steps: [6, 8]
        facts: [param_sha256]
      - {kind: artifacts, source_unchanged: true}
      - {kind: required_fields}
    verdict: pending
"""
    )
    result = project.run()
    result.assert_outcomes(passed=1)
    (record,) = project.records
    assert json.loads(record.read_text())["verdict"] == "pass"
    left = project.root / ".pytest_gates" / "artifacts"
    assert not list(left.glob("*/*")), "checkpoints outlive no session"


def test_runs_take_turns_and_only_one_goes_on_at_a_time(tmp_path: Path) -> None:
    run = load("").runs["whole"]
    assert isinstance(run, PretrainRun)
    with Worker(cache=tmp_path, root=tmp_path) as worker:
        pair = worker.execute_in_turns([Order(run), Order(run, repetition=1)], turn_steps=3)
    steps = []
    for finished in pair:
        assert finished.status == "COMPLETED", finished.reason
        text = (finished.out / "telemetry-0.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        held = [line["step"] for line in lines if line.get("event") == "held"]
        assert held == [0, 3, 6]
        steps.append([line["param_hash"] for line in lines if line["kind"] == "step"])
    assert steps[0] == steps[1]
    assert len(steps[0]) == 9
