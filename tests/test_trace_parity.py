"""Each planted fault is named at its own slot, on the CPU, through the run and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sealed import H200
from tokenizers import Tokenizer, models

from pytest_gates.checks.base import Outcome, Verdict
from pytest_gates.checks.slots import slots_of
from pytest_gates.checks.trace_parity import SameInput, TraceParity
from pytest_gates.evidence import Evidence
from pytest_gates.evidence_store import read_evidence, seal
from pytest_gates.model import forward
from pytest_gates.model.config import ForwardRun, Request
from pytest_gates.model.faults.path import PATH_FAULTS
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.writer import TelemetryWriter

TINY = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 96, "vocab": 256}


def _run(folder: Path, fault: dict[str, Any] | None = None, **said: Any) -> Evidence:
    """Evidence of a forward run beside its oracle."""
    declared = ForwardRun.model_validate(
        {"driver": "forward", "device": "cpu", "model": TINY, "seed": 1,
         "prompt": "def main(): return", "against": {"backward": True}, **said}
    )  # fmt: skip
    out = folder / "out"
    out.mkdir(parents=True)
    request = Request(run=declared, fault=fault, root=str(folder), cache=str(folder))
    with TelemetryWriter(out) as writer:
        forward.run(request, torch.device("cpu"), writer, seams_for(fault))
    sealed = seal(
        folder / "sealed", run=declared, host=H200, status="COMPLETED", reason=None, wall_ms=1.0,
        pid=1, run_folder=True, started="2026-01-02T03:04:05Z",
        files={"telemetry-0.jsonl": out / "telemetry-0.jsonl"},
    )  # fmt: skip
    return read_evidence(folder, sealed.relative_to(folder).as_posix())


def _parity(of: Evidence, **said: Any) -> Outcome:
    return TraceParity.model_validate({"kind": "trace_parity", **said}).evaluate(of)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"dtype": "bf16"},
        {"dtype": "bf16", "parameter_dtype": "bf16"},
        {"parameter_dtype": "bf16"},
        {"model": TINY | {"tied": True, "attention_bias": True}},
    ],
    ids=["fp32", "bf16", "pure bf16", "bf16 as held", "tied with biases"],
)
def test_a_sound_path_agrees_forward_and_backward(tmp_path: Path, said: dict[str, Any]) -> None:
    evidence = _run(tmp_path, **said)
    for direction in ("forward", "backward"):
        outcome = _parity(evidence, direction=direction)
        assert outcome.verdict is Verdict.PASS, outcome.summary
    assert SameInput(kind="same_input").evaluate(evidence).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "fault",
    ["swiglu_slice", "swapped_gate_up", "unmasked_attention", "kv_head_missing", "outlier_channel",
     "nan_activation", "exploding_activation"],
)  # fmt: skip
def test_a_layer_that_weights_turn_out_not_to_have_is_refused(tmp_path: Path, fault: str) -> None:
    with pytest.raises(RunRefusedError, match="the fault's layer 9 lies beyond the model's 3"):
        _run(tmp_path, {"fault": fault, "layer": 9})


def test_a_channel_that_weights_turn_out_not_to_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunRefusedError, match="the fault's channel 64 lies beyond the model's 64"):
        _run(tmp_path, {"fault": "outlier_channel", "channel": 64})


PLANTED = [
    ("swiglu_slice", "layer 1 ffn_swigl"),
    ("wrong_rope_base", "layer 0 q_rope"),
    ("swapped_gate_up", "layer 1 ffn_gate"),
    ("unmasked_attention", "layer 1 attn_out"),
    ("kv_head_missing", "layer 1 attn_out"),
    ("outlier_channel", "layer 1 ffn_norm"),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("fault", "at"), PLANTED)
def test_a_fault_is_named_at_its_own_slot(tmp_path: Path, fault: str, at: str, dtype: str) -> None:
    outcome = _parity(_run(tmp_path, {"fault": fault}, dtype=dtype))
    assert (outcome.verdict, outcome.figure) == (Verdict.FAIL, at), outcome.summary
    eliminated, step = outcome.detail
    assert eliminated.startswith("eliminated: ")
    assert step.startswith("next: ")


@pytest.mark.parametrize("layer", [0, 2])
def test_the_layer_is_named_too(tmp_path: Path, layer: int) -> None:
    outcome = _parity(_run(tmp_path, {"fault": "swiglu_slice", "layer": layer}))
    assert outcome.figure == f"layer {layer} ffn_swigl"
    assert f"eliminated: {16 * layer + 13} slots" in outcome.summary


def test_one_side_fed_fewer_tokens_is_refused_and_told(tmp_path: Path) -> None:
    evidence = _run(tmp_path, {"fault": "fewer_tokens"})
    outcome = _parity(evidence)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.summary == "1 tokens were fed to the path, 18 to the reference"
    assert SameInput(kind="same_input").evaluate(evidence).verdict is Verdict.FAIL
    assert _parity(evidence, direction="backward").verdict is Verdict.INCONCLUSIVE


def test_positions_are_those_that_were_fed(tmp_path: Path) -> None:
    """Logits do not show a shift, which is what makes it dangerous beside a cache."""
    evidence = _run(tmp_path, {"fault": "shifted_positions", "by": 3})
    assert evidence.main.facts["tokens_sha256"] == evidence.main.facts["reference_tokens_sha256"]
    outcome = _parity(evidence)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.summary == "18 positions on both sides, but not the same ones"
    same = SameInput(kind="same_input").evaluate(evidence)
    assert (same.verdict, same.slot) == (Verdict.FAIL, "positions")
    assert _parity(evidence, direction="backward").verdict is Verdict.INCONCLUSIVE
    path, clean = (
        {one.at: one.figures for one in slots_of(run)} for run in (evidence, _run(tmp_path / "c"))
    )
    assert path["logits"]["std"] == pytest.approx(clean["logits"]["std"], rel=1e-6)
    turned = [one["layer 0 q_rope"]["mean"] for one in (path, clean)]
    assert turned[0] != pytest.approx(turned[1], rel=1e-3)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"prompt": "x"}, "the prompt is a single token: no next one, no loss, and no gradients"),
        ({"against": {"tokenizer": "big.json"}}, "big.json has ids up to 999, the model's voc"),
    ],
    ids=["a single token", "another vocabulary"],
)
def test_a_reference_that_cannot_be_fed_is_refused(
    tmp_path: Path, said: dict[str, Any], why: str
) -> None:
    words = {f"w{number}": number for number in range(1000)}
    Tokenizer(models.WordLevel(words, unk_token="w999")).save(str(tmp_path / "big.json"))  # noqa: S106 - a token, no secret
    with pytest.raises(RunRefusedError, match=why):
        _run(tmp_path, **said)


def test_a_single_token_is_compared_forward(tmp_path: Path) -> None:
    assert _parity(_run(tmp_path, prompt="x", against={})).verdict is Verdict.PASS


def test_a_fault_of_the_backward_pass_alone_is_seen_there_alone(tmp_path: Path) -> None:
    evidence = _run(tmp_path, {"fault": "detached_gate"})
    assert _parity(evidence).verdict is Verdict.PASS
    outcome = _parity(evidence, direction="backward")
    assert (outcome.verdict, outcome.figure) == (
        Verdict.FAIL,
        "layer 1 grad mlp.gate_proj.weight",
    ), outcome.summary


def test_every_fault_of_the_path_is_planted_here() -> None:
    names = {one.model_fields["fault"].annotation.__args__[0] for one in PATH_FAULTS}  # type: ignore[union-attr]
    assert names == {name for name, _ in PLANTED} - {"wrong_rope_base"} | {
        "fewer_tokens",
        "shifted_positions",
        "detached_gate",
    }


def test_properties_of_the_path_hold_and_fail(tmp_path: Path) -> None:
    names = ("decode_equals_prefill", "position_shift", "padding")
    properties = [{"name": name, "examples": 5} for name in names]
    sound = _run(tmp_path / "a", properties=properties)
    assert all(sound.main.properties[name].counterexample is None for name in names)
    fault = {"fault": "unmasked_attention"}
    broken = _run(tmp_path / "b", fault, properties=properties, against=None)
    assert broken.main.properties["decode_equals_prefill"].counterexample is not None


def test_greedy_decoding_is_what_a_whole_pass_would_choose(tmp_path: Path) -> None:
    evidence = _run(tmp_path / "a", against=None, decode={"tokens": 6, "repeat": 2})
    facts = evidence.main.facts
    assert (facts["generated_tokens"], facts["decode_graph"]) == (6, False)
    assert all(value > 0 for value in evidence.main.steps.columns["ttft_ms"])  # type: ignore[operator]
    model = forward.from_seed(evidence.run, torch.device("cpu"), 1)  # type: ignore[arg-type]
    tokens = list(b"def main(): return")
    for token in facts["generated"]:
        with torch.no_grad():
            assert model(torch.tensor([tokens]))[0, -1].argmax().item() == token
        tokens.append(token)
    drawn = {"tokens": 6, "temperature": 1.5, "top_k": 20}
    first, again = (
        _run(tmp_path / name, against=None, decode=drawn).main.facts["generated"] for name in "bc"
    )
    assert first == again != facts["generated"]
