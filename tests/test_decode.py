"""Generation: each token from the one before, and what a fault or a compiler may not change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pytest_gates.model.config import Architecture, Decode, ForwardRun
from pytest_gates.model.decode import Generator
from pytest_gates.model.faults import SlowStep
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.transformer import initialised

CPU = torch.device("cpu")
SHAPE = Architecture(hidden=64, layers=3, heads=4, kv_heads=2, intermediate=96, vocab=256)
PROMPT = list(b"def main(): return")


def _path(dtype: torch.dtype = torch.float32) -> ForwardPath:
    return ForwardPath(initialised(SHAPE, CPU, 1, dtype).eval(), CPU, dtype)


def _greedy(path: ForwardPath, tokens: int) -> list[int]:
    """By whole passes, without a cache."""
    fed = list(PROMPT)
    for _ in range(tokens):
        fed.append(int(path(fed)[-1].argmax()))
    return fed[len(PROMPT) :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_generation_begins_anew(dtype: torch.dtype) -> None:
    path = _path(dtype)
    generator = Generator(path, Decode(tokens=8), len(PROMPT), 0)
    first, second = (generator.generate(PROMPT) for _ in range(2))
    assert first.tokens == second.tokens == _greedy(path, 8)
    assert first.decode_ms is not None
    assert first.decode_ms > 0
    alone = Generator(path, Decode(tokens=1), len(PROMPT), 0).generate(PROMPT)
    assert (alone.tokens, alone.decode_ms) == (first.tokens[:1], None)


def test_drawing_from_the_likeliest_alone_is_greedy() -> None:
    path = _path()
    drawn = Decode(tokens=8, temperature=3.0, top_k=1)
    assert Generator(path, drawn, len(PROMPT), 0).generate(PROMPT).tokens == _greedy(path, 8)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    path = _path()
    generator = Generator(path, Decode(tokens=1, temperature=0.05, top_k=3), len(PROMPT), 0)
    share = (path(PROMPT)[-1] / 0.05).topk(3)
    expected = dict(zip(share.indices.tolist(), share.values.softmax(-1).tolist(), strict=True))
    drawn = [generator.generate(PROMPT).tokens[0] for _ in range(400)]
    assert set(drawn) <= set(expected)
    for token, likely in expected.items():
        assert drawn.count(token) / 400 == pytest.approx(likely, abs=0.1)


def test_every_launch_is_announced_so_that_a_fault_can_delay_it() -> None:
    launched: list[int] = []
    generator = Generator(_path(), Decode(tokens=4), len(PROMPT), 0, launched.append)
    generator.generate(PROMPT)
    assert launched == [0, 1, 2, 3]


def test_a_slow_step_fits_what_it_reaches() -> None:
    run = {"driver": "forward", "device": "cuda:0", "model": SHAPE}
    plain, decoding = (
        ForwardRun.model_validate(run | more) for more in ({}, {"decode": {"tokens": 4}})
    )
    assert SlowStep(fault="slow_step").misfit(plain) is None
    assert SlowStep(fault="slow_step", from_step=3).misfit(decoding) is None
    late = SlowStep(fault="slow_step", from_step=4)
    assert late.misfit(decoding) == "from_step 4 lies beyond the run's 4 passes"
    assert late.unseen(decoding) is None


@pytest.mark.slow
def test_compiled_blocks_decode_what_eager_ones_do(tmp_path: Path) -> None:
    """Each block has a cache of its own, whichever graph it runs in. In a process of its own:
    torch's compiler warns of its own age when it is imported."""
    run = {"driver": "forward", "device": "cpu", "model": SHAPE.model_dump(), "seed": 1,
           "prompt": bytes(PROMPT).decode(), "decode": {"tokens": 8}, "compiled": True}  # fmt: skip
    request = {"run": run, "root": str(tmp_path), "cache": str(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", "pytest_gates.model", str(tmp_path / "run.json")]
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    lines = (tmp_path / "out" / "telemetry-0.jsonl").read_text(encoding="utf-8").splitlines()
    facts = {one["name"]: one["value"] for one in map(json.loads, lines) if one["kind"] == "fact"}
    assert facts["generated"] == _greedy(_path(), 8)
