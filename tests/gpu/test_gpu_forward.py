"""The forward driver on a real CUDA device, through the process of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _said(folder: Path, **changed: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    causality = {"name": "causality", "examples": 40, "length": 300}
    run = {"driver": "forward", "device": "cuda", "model": "llama-10m", "properties": [causality]}
    request = {"run": run | changed, "root": str(folder), "cache": str(folder)}
    (folder / "run.json").write_text(json.dumps(request), encoding="utf-8")
    out = folder / "out"
    command = [sys.executable, "-m", "pytest_gates.model", str(folder / "run.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (out / "telemetry-0.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _facts(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in lines if line["kind"] == "fact"}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_path_is_causal_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    lines = _said(tmp_path / "run", dtype=dtype)
    (found,) = (line for line in lines if line["kind"] == "property")
    assert (found["examples"], found["counterexample"]) == (40, None)


def test_one_seed_one_pass_in_fresh_processes(tmp_path: Path) -> None:
    first, second = _said(tmp_path / "a"), _said(tmp_path / "b")
    assert _facts(first) == _facts(second)
    assert _facts(first)["device_resolved"] == "cuda:0"
    slots = [[line for line in lines if line["kind"] == "slot"] for lines in (first, second)]
    assert slots[0] == slots[1]


DECODE = {"properties": [], "dtype": "fp32", "decode": {"tokens": 40, "repeat": 2}}


def test_a_captured_step_decodes_what_single_kernels_do(tmp_path: Path) -> None:
    single = _facts(_said(tmp_path / "a", **DECODE | {"decode": {"tokens": 40, "graph": "off"}}))
    graph = _facts(_said(tmp_path / "b", **DECODE))
    compiled = _facts(_said(tmp_path / "c", **DECODE, compiled=True))
    assert (single["decode_graph"], graph["decode_graph"]) == (False, True)
    assert single["generated"] == graph["generated"] == compiled["generated"]
    assert len(set(graph["generated"])) > 1


def test_sampling_in_a_graph_moves_on_and_repeats_at_one_seed(tmp_path: Path) -> None:
    drawn = {"tokens": 30, "temperature": 1.5, "top_k": 50, "repeat": 2}
    said = [_facts(_said(tmp_path / name, **DECODE | {"decode": drawn})) for name in "ab"]
    once = _facts(_said(tmp_path / "c", **DECODE | {"decode": drawn | {"repeat": 1}}))
    assert said[0]["generated"] == said[1]["generated"] != once["generated"]
    assert len(set(once["generated"])) > 5


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_shortest_continuations_stay_in_the_cache(tmp_path: Path, tokens: int) -> None:
    decode = {"tokens": tokens, "prefill": 62, "repeat": 2}
    facts = _facts(_said(tmp_path / "run", **DECODE | {"decode": decode}))
    assert facts["generated_tokens"] == tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_say_of_slots_what_plain_operations_say(dtype: torch.dtype) -> None:
    from pytest_gates.model import slot_looks
    from pytest_gates.model.slot_statistics import fingerprints, slot_statistics

    draw = torch.Generator("cuda").manual_seed(0)
    groups = []
    for count, size in ((3, 5000), (2, 700_001), (2, 7)):
        x = torch.randn(count, size, device="cuda", generator=draw) * 0.3 + 0.05
        x[0, :3] = 0
        groups.append(x.to(dtype))
    groups[2][0, 1], groups[2][1, 2] = torch.inf, torch.nan
    figures, marks = slot_looks.statistics([slot_looks.look(group) for group in groups])
    expected = torch.cat([slot_statistics(group) for group in groups])
    torch.testing.assert_close(figures, expected, rtol=1e-5, atol=1e-9, equal_nan=True)
    assert torch.equal(marks, torch.cat([fingerprints(group) for group in groups]))
