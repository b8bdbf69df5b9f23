"""`diff`: planted loosenings are all found, tightenings are not taken for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gates import cli

CONTRACT = """\
contract_id: C-BASE
version: 1.4.0
runs:
  train:
    driver: pretrain
    device: cuda:0
    model: llama-370m
    data: {corpus: python-stdlib, tokenizer: bpe-50257}
    seq_len: 512
    batch_size: 16
    steps: 200
    seed: 0
    deterministic: true
  other: {from: train, seed: 1}
gates:
  - id: GATE-TIME
    rule: A step is quick.
    run: train
    checks:
      - kind: budget
        metric: wall_ms
        steps: [20, 199]
        statistic: p90
        below: {NVIDIA H200: 60, NVIDIA GeForce RTX 4090: 500}
        confidence: 0.95
      - {kind: exit_status, expect: COMPLETED, within_s: 60}
    requires: {dtype: bf16}
    ship_blocking: true
    verdict: pending
  - id: GATE-LOSS
    rule: The loss falls.
    run: train
    checks:
      - {kind: descent, steps: [0, 99], drop: 2.0, start_tolerance: 0.1}
      - {kind: finite, metrics: [train_loss, grad_norm]}
      - {kind: bounded, metric: grad_norm, below: 100.0, steps: [10, 99]}
      - {kind: residency, require: [L0, L1, [L3, L3b]]}
      - {kind: event, event: model_built, at_least: 1}
    verdict: pending
  - id: GATE-SEED
    rule: One seed, one run.
    checks:
      - {kind: equal_runs, of: {run: train, repeat: 3}, metrics: [train_loss, grad_norm]}
      - {kind: equal_runs, of: [train, other], expect: differ}
    verdict: pending
falsification_tests:
  - id: FALSIFY-TIME
    binds_to: GATE-TIME
    inject: {fault: slow_step, ms: 600}
    expect: {verdict: fail, check: budget}
"""
LOOSENED = {
    "budget raised": ("NVIDIA H200: 60", "NVIDIA H200: 61"),
    "a GPU's budget dropped": (", NVIDIA GeForce RTX 4090: 500", ""),
    "window shifted": ("steps: [20, 199]", "steps: [40, 199]"),
    "confidence lowered": ("confidence: 0.95", "confidence: 0.9"),
    "easier quantile": ("statistic: p90", "statistic: median"),
    "time limit dropped": (", within_s: 60", ""),
    "any end will do": ("expect: COMPLETED", "expect: [COMPLETED, ABORTED]"),
    "requirement dropped": ("requires: {dtype: bf16}", "requires: {}"),
    "no longer blocking": ("ship_blocking: true", "ship_blocking: false"),
    "fall lowered": ("drop: 2.0", "drop: 1.0"),
    "start not looked at": ("start_tolerance: 0.1", "start_tolerance: null"),
    "metric dropped": (
        "finite, metrics: [train_loss, grad_norm]", "finite, metrics: [train_loss]"),
    "bound raised": ("below: 100.0", "below: 1000.0"),
    "check dropped": ("      - {kind: event, event: model_built, at_least: 1}\n", ""),
    "layer dropped": ("[L0, L1, [L3, L3b]]", "[L0, [L3, L3b]]"),
    "another layer will do": ("[L0, L1, [L3, L3b]]", "[L0, L1, [L2, L3, L3b]]"),
    "fewer executions": ("repeat: 3", "repeat: 2"),
    "tolerance given": ("repeat: 3}, ", "repeat: 3}, tolerance: 0.1, "),
    "smaller model": ("model: llama-370m\n    data: {corpus: python-stdlib, tokenizer: bpe-50257}",
                      "model: llama-1m\n    data: {corpus: python-stdlib}"),
    "another device": ("device: cuda:0", "device: cuda:1"),
    "not deterministic": ("deterministic: true", "deterministic: false"),
    "falsifier removed": (CONTRACT[CONTRACT.index("falsification_tests:") :], ""),
    "weaker sabotage is louder": ("ms: 600", "ms: 6000"),
    "window of a bound narrowed": ("steps: [10, 99]}\n", "steps: [50, 99]}\n"),
}  # fmt: skip
TIGHTENED = {
    "budget lowered": ("NVIDIA H200: 60", "NVIDIA H200: 50"),
    "harder quantile": ("statistic: p90", "statistic: p95"),
    "confidence raised": ("confidence: 0.95", "confidence: 0.96"),
    "blocking": ("    verdict: pending\n  - id: GATE-SEED",
                 "    ship_blocking: true\n    verdict: pending\n  - id: GATE-SEED"),
    "bound lowered": ("below: 100.0", "below: 10.0"),
    "window of a bound widened": ("steps: [10, 99]}\n", "steps: [0, 99]}\n"),
    "layer added": ("[L0, L1, [L3, L3b]]", "[L0, L1, L2, [L3, L3b]]"),
    "choice taken away": ("[L0, L1, [L3, L3b]]", "[L0, L1, L3]"),
    "more executions": ("repeat: 3", "repeat: 4"),
    "check added": (
        "      - {kind: event,", "      - {kind: required_fields}\n      - {kind: event,"),
    "shorter patience": ("    seed: 0\n", "    seed: 0\n    timeout_s: 600\n"),
}  # fmt: skip

Diff = Callable[[str, str], tuple[int, dict[str, str], list[dict[str, str]]]]


@pytest.fixture
def diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Diff:
    def run(old: str, new: str) -> tuple[int, dict[str, str], list[dict[str, str]]]:
        paths = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
        for path, text in zip(paths, (old, new), strict=True):
            path.write_text(text, encoding="utf-8")
        status = cli.main(["diff", "--json", *map(str, paths)])
        captured = capsys.readouterr()
        told = json.loads(captured.out)
        return status, {one["gate"]: one["state"] for one in told["gates"]}, told["versions"]

    return run


def planted(before: str, after: str) -> str:
    assert before in CONTRACT
    return CONTRACT.replace(before, after)


@pytest.mark.parametrize("name", LOOSENED)
def test_a_planted_loosening_is_found(diff: Diff, name: str) -> None:
    status, states, versions = diff(CONTRACT, planted(*LOOSENED[name]))
    assert status == 1
    assert "LOOSENED" in states.values()
    assert versions[0]["proposed"] == "2.0.0"


@pytest.mark.parametrize("name", TIGHTENED)
def test_a_tightening_is_none(diff: Diff, name: str) -> None:
    status, states, versions = diff(CONTRACT, planted(*TIGHTENED[name]))
    assert status == 0
    assert set(states.values()) == {"TIGHTENED"}
    assert versions[0]["proposed"] == "1.5.0"


def test_at_least_twenty_loosenings_are_planted() -> None:
    assert len(LOOSENED) >= 20


def test_a_tightening_does_not_hide_a_loosening(diff: Diff) -> None:
    new = planted("NVIDIA H200: 60", "NVIDIA H200: 1").replace("0.95", "0.9")
    assert diff(CONTRACT, new)[:2] == (1, {"GATE-TIME": "LOOSENED"})


def test_a_removed_gate_blocks_unless_it_was_waived_before(diff: Diff) -> None:
    start, end = CONTRACT.index("  - id: GATE-SEED"), CONTRACT.index("falsification_tests:")
    gone = CONTRACT[:start] + CONTRACT[end:]
    assert diff(CONTRACT, gone)[:2] == (1, {"GATE-SEED": "REMOVED"})
    waiver = "    waiver: {reason: replaced, owner: ops, until: 2999-01-01}\n"
    waived = CONTRACT[:end] + waiver + CONTRACT[end:]
    assert diff(waived, gone)[:2] == (0, {"GATE-SEED": "REMOVED"})
    assert diff(gone, CONTRACT)[:2] == (0, {"GATE-SEED": "ADDED"})


@pytest.mark.parametrize(("until", "status"), [("2999-01-01", 0), ("2020-01-01", 1)])
def test_a_waiver_covers_a_loosening_while_it_holds(diff: Diff, until: str, status: int) -> None:
    waiver = f"    waiver: {{reason: slow driver, owner: ops, until: {until}}}\n"
    new = planted("NVIDIA H200: 60", "NVIDIA H200: 90").replace(
        "    requires:", f"{waiver}    requires:"
    )
    assert diff(CONTRACT, new)[:2] == (status, {"GATE-TIME": "LOOSENED"})


def test_text_that_means_the_same_is_no_difference(diff: Diff) -> None:
    new = planted("    seed: 0\n", "").replace("steps: 200\n", "steps: 200   # as ever\n")
    assert diff(CONTRACT, new) == (0, {}, [])


def test_another_verdict_is_only_re_judged_and_another_rule_only_changed(diff: Diff) -> None:
    judged = CONTRACT.replace("verdict: pending\n  - id: GATE-LOSS", "verdict: fail\n"
                              "  - id: GATE-LOSS")  # fmt: skip
    assert diff(CONTRACT, judged)[:2] == (0, {"GATE-TIME": "REJUDGED"})
    assert diff(CONTRACT, planted("A step is quick.", "Quick."))[:2] == (
        0,
        {"GATE-TIME": "CHANGED"},
    )
