"""Whatever stands where something else belongs is told at its place: a loader never crashes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pytest_gates.contract.load import contract_from
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError

CONTRACT = """
contract_id: C-SHAPES
version: 1.0.0
gpus: {NVIDIA X1: {bf16_tflops: 100, source: s}}
runs:
  gpu: {driver: pretrain, device: cuda, model: llama-1m, data: {corpus: python-stdlib},
        seq_len: 64, batch_size: 4, steps: 200, optimizer: {lr: 3.0e-3}, host: {cuda: any}}
  twin: {from: gpu, seed: 1}
  log: {driver: recorded, files: [{path: a.jsonl, format: jsonl}], declares: {steps: 9}}
gates:
  - id: G1
    run: gpu
    requires: {seq_len: 64}
    checks:
      - {kind: budget, metric: wall_ms, steps: [20, 99], below: {NVIDIA H200: 60}}
      - {kind: residency, require: [L0, [L3, L3b]]}
      - {kind: fact, fact: parameters, at_least: 3}
    waiver: {until: "2027-01-01", owner: me, reason: x}
    verdict: pending
  - id: G2
    checks:
      - {kind: equal_runs, of: {run: gpu, repeat: 2}, metrics: [train_loss], tolerance: 1.0e-5}
      - {kind: equal_runs, of: [gpu, twin], expect: differ}
    verdict: pass
    verdict_basis: [{record: ab, verdict: pass}]
falsification_tests:
  - id: F1
    binds_to: G1
    inject: {fault: slow_step, ms: 600}
    shorten: {steps: 150}
    expect: {verdict: fail, check: budget}
"""
Path = tuple[str | int, ...]
WRONG: dict[str, Any] = {
    "nothing": None,
    "list": [1],
    "empty list": [],
    "mapping": {"a": 1},
    "number of 400 digits": 10**400,
    "text": "x",
}


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Where something stands, each key and each element."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def altered(path: Path, value: Any) -> str:
    """The contract with another value at a place."""
    tree = yaml.safe_load(CONTRACT)
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = copy.deepcopy(value)
    return yaml.safe_dump(tree, sort_keys=False)


def said(text: str) -> list[str]:
    """The lines of the refusal; none if the contract loads."""
    try:
        contract_from(text, "c.yaml", Caps())
    except ContractError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_said_in_lines_with_a_place(value: Any) -> None:
    assert said(CONTRACT) == []
    told = [said(altered(path, value)) for path in places(yaml.safe_load(CONTRACT))]
    assert all(line.startswith("c.yaml:") for lines in told for line in lines)
    assert sum(bool(lines) for lines in told) >= 20
