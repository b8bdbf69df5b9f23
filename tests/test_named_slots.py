"""A falsifier that expects a slot's name: noticed elsewhere is not caught."""

from __future__ import annotations

import pytest
from loading import loaded, refused
from project import Project

RUNS = """\
contract_id: C-PATH
version: 1.0.0
runs:
  base:
    driver: forward
    device: cpu
    model: {hidden: 32, layers: 4, heads: 2, kv_heads: 1, intermediate: 48, vocab: 256}
    prompt: "def main(): return"
    against: {}
"""
GATE = """\
gates:
  - id: GATE-PATH
    rule: Every slot equals the oracle's.
    run: base
    checks:
      - {kind: same_input}
      - {kind: trace_parity}
    verdict: pending
falsification_tests:
  - id: FALSIFY-PATH
    binds_to: GATE-PATH
    inject: {fault: swiglu_slice, layer: 3}
    expect: {verdict: fail, check: trace_parity, slot: SLOT}
"""
EXPECTED = "22:56: "


def _said(slot: str) -> str:
    return GATE.replace("SLOT", slot)


def test_the_named_slot_is_caught(project: Project) -> None:
    project.contract(RUNS + _said("layer 3 ffn_swigl"))
    result = project.run()
    result.assert_outcomes(passed=2)
    assert "FALSIFY-PATH  -        CAUGHT" in result.stdout.str()
    assert '"slot":"layer 3 ffn_swigl"' in "".join(one.read_text() for one in project.records)


@pytest.mark.parametrize(
    "slot",
    [
        "layer 2 ffn_swigl",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("layer 3 ffn_up", "logits")),
    ],
)
def test_noticed_at_another_slot_is_not_caught(project: Project, slot: str) -> None:
    project.contract(RUNS + _said(slot))
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert f"because   trace_parity names layer 3 ffn_swigl, not {slot}" in text
    assert f"expected  verdict fail through check trace_parity at {slot}" in text


@pytest.mark.parametrize(
    ("slot", "text"),
    [
        ("layer 4 ffn_swigl", "slot `layer 4 ffn_swigl` lies beyond the model's 4 layers"),
        ("layer 3 ffn_swiglu", "there is no slot `layer 3 ffn_swiglu`; did you mean `ffn_swigl`?"),
        ("ffn_swigl", "slot `ffn_swigl` lies in a layer: write `layer 0 ffn_swigl`"),
        ("layer 3 logits", "there is no slot `layer 3 logits`; known: attn_norm, q, k, v,"),
        ("layer 03 q", "there is no slot `layer 03 q`; known: final_norm, logits"),
    ],
)
def test_a_slot_that_no_trace_has_is_refused(slot: str, text: str) -> None:
    (line,) = refused(_said(slot), runs=RUNS)
    assert line.startswith(f"{EXPECTED}trace_parity: {text}"), line


def test_a_check_that_names_no_slot_is_refused() -> None:
    said = _said("logits").replace("trace_parity, slot", "exit_status, slot")
    said = said.replace("{kind: trace_parity}", "{kind: exit_status}")
    (line,) = refused(said.replace("swiglu_slice, layer: 3", "fewer_tokens"), runs=RUNS)
    assert line.endswith("exit_status: the check names no slot")


def test_of_inputs_a_side_stands_for_the_slot(project: Project) -> None:
    said = _said("tokens").replace("check: trace_parity", "check: same_input")
    said = said.replace("swiglu_slice, layer: 3", "fewer_tokens")
    (odd,) = refused(said.replace("slot: tokens", "slot: bytes"), runs=RUNS)
    assert odd.endswith("same_input: its slots are tokens, positions, shapes, not `bytes`")
    project.contract(RUNS + said)
    project.run().assert_outcomes(passed=2)


def test_the_expected_slot_is_part_of_the_falsifier() -> None:
    hashes = {
        loaded(_said(slot), runs=RUNS).falsifiers[0].hash
        for slot in ("layer 3 ffn_swigl", "layer 2 ffn_swigl")
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("outlier_channel, channel: 32", "channel 32 lies beyond the model's 32"),
        ("outlier_channel, layer: 9", "layer 9 lies beyond the model's"),
    ],
)
def test_a_fault_at_a_place_that_the_model_has_not_is_refused(fault: str, why: str) -> None:
    said = _said("layer 3 ffn_swigl").replace("swiglu_slice, layer: 3", fault)
    (line,) = refused(said, runs=RUNS)
    assert why in line
