"""The forward driver: slots and facts of one pass, and leaks that its search must find."""

from __future__ import annotations

import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import evidence
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import log_softmax, scaled_dot_product_attention

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.fact import Fact
from pytest_gates.model import forward
from pytest_gates.model.attention import rotate
from pytest_gates.model.config import PRESETS, ForwardRun, Request
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.seams import Seams
from pytest_gates.model.slot_statistics import (
    STATISTICS,
    fingerprints,
    quick_statistics,
    slot_statistics,
)
from pytest_gates.model.transformer import Attention, Span, Transformer, initialised
from pytest_gates.model.writer import TelemetryWriter

TINY = {
    "hidden": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "intermediate": 48,
    "vocab": 300,
}
PROMPT = "def naïve():\n"
CPU = torch.device("cpu")
BLOCK = ["attn_norm", "q", "k", "v", "q_rope", "k_rope", "attn_out", "attn_proj", "residual_mid"]
BLOCK += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "residual_out"]
CAUSALITY = {"name": "causality", "examples": 15}


def _declared(**changed: Any) -> ForwardRun:
    run = {"driver": "forward", "device": "cpu", "model": TINY, "seed": 3, "prompt": PROMPT}
    return ForwardRun.model_validate(run | changed)


def _lines(out: Path) -> list[dict[str, Any]]:
    text = (out / "telemetry-0.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _forward(out: Path, **changed: Any) -> list[dict[str, Any]]:
    out.mkdir()
    request = Request(run=_declared(**changed), root=str(out), cache=str(out))
    with TelemetryWriter(out) as writer:
        forward.run(request, CPU, writer, Seams())
    return _lines(out)


def _facts(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in lines if line["kind"] == "fact"}


def _model() -> Transformer:
    return initialised(_declared().architecture, CPU, 3)


def _expected(activations: Tensor) -> dict[str, float]:
    x = activations.numpy().astype(np.float64)
    return {
        "mean": x.mean(),
        "std": x.std(),
        "rms": np.sqrt((x * x).mean()),
        "abs_max": np.abs(x).max(),
        "kurtosis": ((x - x.mean()) ** 4).mean() / x.var() ** 2,
        "zeros_pct": 100 * np.count_nonzero(x == 0) / x.size,
        "non_finite": float(np.count_nonzero(~np.isfinite(x))),
    }


def test_every_slot_of_every_layer_is_said_in_the_order_of_the_pass(tmp_path: Path) -> None:
    lines = _forward(tmp_path / "out")
    said = [(line["layer"], line["slot"]) for line in lines if line["kind"] == "slot"]
    blocks = [(layer, slot) for layer in range(2) for slot in BLOCK]
    assert said == [*blocks, (-1, "final_norm"), (-1, "logits")]


def test_slot_statistics_are_those_of_the_activations(tmp_path: Path) -> None:
    """The activations are taken by hooks on the modules, not through the observer."""
    lines = _forward(tmp_path / "out")
    model, activations = _model(), {}
    slots = {"q_proj": "q", "v_proj": "v", "o_proj": "attn_proj", "gate_proj": "ffn_gate"}
    slots |= {"down_proj": "ffn_out", "input_layernorm": "attn_norm"}
    for name, module in model.named_modules():
        parts = name.split(".")
        if name in {"model.norm", "lm_head"}:
            place = (-1, "logits" if name == "lm_head" else "final_norm")
        elif parts[-1] in slots:
            place = (int(parts[2]), slots[parts[-1]])
        else:
            continue
        module.register_forward_hook(
            lambda _, __, output, place=place: activations.__setitem__(place, output)
        )
    with torch.no_grad():
        model(torch.tensor([list(PROMPT.encode())]))
    said = {(line["layer"], line["slot"]): line for line in lines if line["kind"] == "slot"}
    assert len(activations) == 2 * len(slots) + 2
    for place, taken in activations.items():
        figures = {name: said[place][name] for name in STATISTICS}
        assert figures == pytest.approx(_expected(taken), rel=1e-5, abs=1e-9), place


def _figures(*rows: Tensor) -> list[dict[str, float]]:
    found = slot_statistics(torch.stack(rows)).tolist()
    return [dict(zip(STATISTICS, row, strict=True)) for row in found]


def test_statistics_of_a_mean_far_from_zero_and_of_zeros() -> None:
    x = torch.cat((torch.zeros(25), 1e4 + torch.randn(75, generator=torch.manual_seed(0))))
    y = torch.randn(100, generator=torch.manual_seed(1))
    found = _figures(x, y, torch.full((100,), 1e4))
    assert found[0] == pytest.approx(_expected(x), rel=1e-6)
    assert found[1] == pytest.approx(_expected(y), rel=1e-5)
    assert found[0]["zeros_pct"] == 25
    assert found[2]["std"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_both_ways_to_the_statistics_agree(dtype: torch.dtype) -> None:
    """Sums of powers are quicker and serve ordinary activations alone; what they refuse is told."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(3, 5000, generator=draw).mul_(0.3).add_(0.05).to(dtype)
    x[1] = torch.nn.functional.silu(x[1].float()).to(dtype)
    x[2, :100] = 0
    quick = quick_statistics(x)
    assert quick is not None
    for row, figures in zip(x, quick, strict=True):
        expected = _expected(row.float())
        assert dict(zip(STATISTICS, figures, strict=True)) == pytest.approx(expected, rel=1e-5)
    for odd in (1e12, 1e-12, math.nan, math.inf):
        assert quick_statistics(torch.full((2, 4), odd, dtype=dtype)) is None
    assert quick_statistics(x + 1) is None
    assert quick_statistics(torch.zeros(1, 8, dtype=dtype)) is None


def test_statistics_survive_large_and_non_finite_activations() -> None:
    (large,) = _figures(torch.tensor([3e30, -3e30]))
    assert large["rms"] == pytest.approx(3e30)
    assert large["std"] == pytest.approx(3e30)
    assert large["kurtosis"] == pytest.approx(1)
    fine, broken = _figures(
        torch.tensor([4.0, 2.0, 3.0, 1.0], dtype=torch.bfloat16),
        torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=torch.bfloat16),
    )
    assert (fine["non_finite"], fine["abs_max"]) == (0, 4)
    assert broken["non_finite"] == 3
    assert math.isnan(broken["mean"])
    assert math.isnan(broken["abs_max"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_one_bit_and_one_swap_change_the_fingerprint(dtype: torch.dtype) -> None:
    x = torch.randn(4096, generator=torch.manual_seed(0)).to(dtype)
    swapped, negated = x.clone(), x.clone()
    swapped[[7, 2900]] = x[[2900, 7]]
    negated[4095] *= -1
    marks = fingerprints(torch.stack((x, swapped, negated, x))).tolist()
    assert marks[0] == marks[3]
    assert len(set(marks)) == 3


def test_the_facts_of_a_pass(tmp_path: Path) -> None:
    facts = _facts(_forward(tmp_path / "out"))
    tokens = np.array(list(PROMPT.encode()), dtype="<i8")
    assert facts["parameters"] == _declared().architecture.parameters
    assert facts["tied"] is False
    assert facts["compute_dtype"] == facts["parameter_dtype"] == "float32"
    assert facts["tokens"] == len(tokens)
    assert facts["tokens_sha256"] == hashlib.sha256(tokens.tobytes()).hexdigest()
    positions = np.arange(len(tokens), dtype="<i8")
    assert facts["positions_sha256"] == hashlib.sha256(positions.tobytes()).hexdigest()
    with torch.no_grad():
        logits = _model()(torch.from_numpy(tokens)[None])[0]
    assert facts["logits_sha256"] == hashlib.sha256(logits.numpy().tobytes()).hexdigest()
    following = log_softmax(logits[:-1], dim=-1)[range(len(tokens) - 1), tokens[1:]]
    assert facts["prompt_loss"] == pytest.approx(-following.mean().item(), rel=1e-5)
    assert facts["prompt_loss"] == pytest.approx(math.log(300), rel=0.02)


def test_one_seed_one_pass(tmp_path: Path) -> None:
    named = [("a", 3), ("b", 3), ("c", 4)]
    a, b, c = (_facts(_forward(tmp_path / name, seed=seed)) for name, seed in named)
    assert a == b
    assert a["logits_sha256"] != c["logits_sha256"]
    assert a["tokens_sha256"] == c["tokens_sha256"]


def test_a_single_token_has_no_loss(tmp_path: Path) -> None:
    facts = _facts(_forward(tmp_path / "out", prompt="x"))
    assert facts["tokens"] == 1
    assert facts["prompt_loss"] is None


def test_parameters_held_in_bf16_are_multiplied_in_it_and_that_is_said(tmp_path: Path) -> None:
    facts = _facts(_forward(tmp_path / "out", parameter_dtype="bf16"))
    assert (facts["parameter_dtype"], facts["compute_dtype"]) == ("bfloat16", "bfloat16")
    with pytest.raises(ValidationError, match="held in bf16 are multiplied in bf16"):
        _declared(parameter_dtype="bf16", dtype="fp32")


def test_tied_weights_and_bf16_are_said_as_they_are(tmp_path: Path) -> None:
    changed = {"model": TINY | {"tied": True}, "dtype": "bf16", "properties": [CAUSALITY]}
    lines = _forward(tmp_path / "out", **changed)
    facts = _facts(lines)
    assert facts["tied"] is True
    assert (facts["parameter_dtype"], facts["compute_dtype"]) == ("float32", "bfloat16")
    (found,) = (line for line in lines if line["kind"] == "property")
    assert found["counterexample"] is None


def test_the_path_is_causal_bit_for_bit(tmp_path: Path) -> None:
    lines = _forward(tmp_path / "out", properties=[CAUSALITY])
    (found,) = (line for line in lines if line["kind"] == "property")
    assert (found["name"], found["examples"], found["counterexample"]) == ("causality", 15, None)


class Uncausal(Attention):
    """Attention without its mask: every position sees those after it."""

    def forward(self, x: Tensor, span: Span, layer: int, observe: Any) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = scaled_dot_product_attention(
            rotate(q, *span.tables), rotate(k, *span.tables), v, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_leak_in_one_layer_is_found_and_shrunk(tmp_path: Path, layer: int) -> None:
    declared, model = _declared(properties=[CAUSALITY]), _model()
    leaky = Uncausal(declared.architecture)
    leaky.load_state_dict(model.model.layers[layer].self_attn.state_dict())
    model.model.layers[layer].self_attn = leaky
    with TelemetryWriter(tmp_path) as writer:
        path = ForwardPath(model, CPU, torch.float32)
        forward.search_properties(path, declared, writer, {})
    (found,) = _lines(tmp_path)
    counterexample = found["counterexample"]
    assert counterexample["tokens"] == [0, 0]
    assert counterexample["position"] == 0
    assert counterexample["tokens_after"] == [1]
    assert counterexample["changed_positions"] == [0]
    assert counterexample["largest_difference"] > 0
    assert found["examples"] >= 1


def test_a_contract_that_asks_for_the_impossible_is_told_both_counts(tmp_path: Path) -> None:
    """The field's contradiction: tied embeddings and 366M to 374M parameters."""
    facts = _facts(_forward(tmp_path / "out", model=TINY | {"tied": True}))
    shape = _declared(model=TINY | {"tied": True}).architecture
    assert shape is not None
    assert facts["parameters"] == facts["parameters_if_tied"] == shape.parameters
    big = PRESETS["llama-370m"].model_copy(update={"tied": True})
    told = {
        "parameters": big.parameters,
        "parameters_if_tied": big.parameters,
        "parameters_if_untied": PRESETS["llama-370m"].parameters,
    }
    asked = {"kind": "fact", "fact": "parameters", "at_least": 366_000_000, "at_most": 374_000_000}
    outcome = Fact.model_validate(asked).evaluate(evidence(facts=told))
    assert outcome.verdict is Verdict.FAIL
    assert "parameters is 322,045,952" in outcome.summary
    assert "tied 322,045,952, untied 373,509,120" in outcome.summary


def test_a_repetition_in_which_something_was_compiled_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graphs are traced as ever, and run as they are: no compiler is needed.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    decode = {"tokens": 3, "repeat": 3}
    lines = _forward(tmp_path / "out", compiled=True, decode=decode)
    compiled = [line["step"] for line in lines if line.get("event") == "compiled"]
    assert compiled == [0]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [0, 1, 2]
    plain = _forward(tmp_path / "plain", decode=decode)
    assert "compiled" not in {line.get("event") for line in plain}
