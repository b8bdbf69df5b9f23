"""The fused step against the eager one, on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pytest_gates.model import census
from pytest_gates.model.config import Architecture, Optimizer, PretrainRun, Request
from pytest_gates.model.fused.fits import why_eager
from pytest_gates.model.seams import CLEAN
from pytest_gates.model.step import Step, read
from pytest_gates.model.transformer import Transformer, initialised

pytestmark = pytest.mark.gpu

SMALL = Architecture(hidden=256, layers=3, heads=4, kv_heads=2, intermediate=704, vocab=1000)
CUDA = torch.device("cuda:0")


def small_run(**settings: object) -> PretrainRun:
    return PretrainRun.model_validate(
        {
            "driver": "pretrain",
            "device": "cuda:0",
            "model": SMALL.model_dump(),
            "data": {"corpus": "python-stdlib"},
            "seq_len": 128,
            "batch_size": 4,
            "steps": 6,
            "optimizer": Optimizer(lr=1e-3, warmup_steps=2),
            **settings,
        }
    )


def fused(run: PretrainRun, model: Transformer):
    from pytest_gates.model.fused.step import FusedStep

    assert why_eager(run, CUDA, CLEAN) is None
    return FusedStep(run, model, CUDA)


def batch(seed: int) -> Tensor:
    generator = torch.Generator(device=CUDA).manual_seed(seed)
    return torch.randint(0, SMALL.vocab, (4, 129), device=CUDA, generator=generator)


def gradients(model: Transformer, tokens: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(x: Tensor, reference: Tensor) -> float:
    x, reference = x.detach().double(), reference.detach().double()
    return float((x - reference).norm() / reference.norm())


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_as_near_to_fp32_as_autocast(seed: int) -> None:
    model, tokens = initialised(SMALL, CUDA, seed), batch(seed)
    exact = gradients(model, tokens, torch.float32)
    autocast = gradients(model, tokens, torch.bfloat16)
    step = fused(small_run(), initialised(SMALL, CUDA, seed))
    step.tokens.copy_(tokens)
    step.accumulate()
    ours = dict(step.state.named(step.state.gradients))
    assert ours.keys() == exact.keys()
    for name, reference in exact.items():
        error = relative(ours[name], reference)
        assert error < 0.05, name
        assert error < 2 * relative(autocast[name], reference), name


def test_a_gain_of_zero_and_small_or_negative_ones_get_their_gradients() -> None:
    def model() -> Transformer:
        made = initialised(SMALL, CUDA, 0)
        gains = torch.linspace(-1.5, 1.5, SMALL.hidden, device=CUDA).bfloat16().float()
        gains[3], gains[4], gains[5] = 0.0, 1e-6, -0.0
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "norm" in name:
                    parameter.copy_(gains.roll(len(name)))
        return made

    tokens = batch(0)
    exact = gradients(model(), tokens, torch.float32)
    step = fused(small_run(), model())
    step.tokens.copy_(tokens)
    step.accumulate()
    ours = dict(step.state.named(step.state.gradients))
    for name, reference in exact.items():
        assert relative(ours[name], reference) < 0.05, name
        if "norm" in name:
            at = [(index + len(name)) % SMALL.hidden for index in (3, 4, 5)]
            assert relative(ours[name][at], reference[at]) < 0.1, name


def exact_attention(qkv: Tensor, cos: Tensor, sin: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same in plain operations, in the type of its input."""
    B, T, H, K, D = shape
    heads = qkv.view(B, T, H + 2 * K, D)
    left, right = heads[:, :, : H + K].chunk(2, dim=-1)
    c, s = cos[:, None].to(qkv.dtype), sin[:, None].to(qkv.dtype)
    rotated = torch.cat((left * c - right * s, right * c + left * s), dim=-1)
    q, k, v = (
        part.transpose(1, 2)
        for part in (rotated[:, :, :H], rotated[:, :, H:], heads[:, :, H + K :])
    )
    k, v = (part.repeat_interleave(H // K, dim=1) for part in (k, v))
    hidden = torch.ones(T, T, dtype=torch.bool, device=qkv.device).triu(1)
    scores = (q @ k.mT / D**0.5).masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(B * T, H * D)


@pytest.mark.parametrize(
    "shape",
    [(2, 128, 4, 2, 64), (1, 200, 16, 4, 64), (3, 65, 4, 4, 32), (16, 512, 16, 4, 64),
     (1, 1, 2, 1, 16), (2, 96, 2, 1, 128)],
)  # fmt: skip
def test_attention_and_its_gradients_are_those_of_plain_operations(shape: tuple[int, ...]) -> None:
    from pytest_gates.model.fused.functions import Attention

    B, T, H, K, D = shape
    generator = torch.Generator(device=CUDA).manual_seed(T)
    raw, grad = (
        torch.randn(B * T, width, device=CUDA, generator=generator).bfloat16()
        for width in ((H + 2 * K) * D, H * D)
    )
    angle = torch.outer(
        torch.arange(T, device=CUDA).float(),
        10_000.0 ** (-torch.arange(0, D, 2, device=CUDA).float() / D),
    )
    leaf = raw.clone().requires_grad_()
    out = Attention.apply(leaf * 1, angle.cos(), angle.sin(), shape)
    (ours,) = torch.autograd.grad(out, leaf, grad)
    exact_leaf = raw.double().requires_grad_()
    exact = exact_attention(exact_leaf, angle.cos(), angle.sin(), shape)
    (reference,) = torch.autograd.grad(exact, exact_leaf, grad.double())
    assert relative(out, exact) < 0.01
    for start, stop in ((0, H), (H, H + K), (H + K, H + 2 * K)):
        part = slice(start * D, stop * D)
        if reference[:, part].any():
            assert relative(ours[:, part], reference[:, part]) < 0.01
    again = Attention.apply(raw.clone(), angle.cos(), angle.sin(), shape)
    assert torch.equal(again, out)


@pytest.mark.parametrize("vocab", [1000, 50_257, 130_000])
def test_the_loss_and_its_gradients_are_those_of_plain_operations(vocab: int) -> None:
    from pytest_gates.model.fused.functions import HeadLoss

    rows, width, padded = 300, 64, -(-vocab // 128) * 128
    generator = torch.Generator(device=CUDA).manual_seed(vocab)
    x, weight = (
        (torch.randn(count, width, device=CUDA, generator=generator) / 2).bfloat16()
        for count in (rows, padded)
    )
    weight[vocab:] = 0
    targets = torch.randint(0, vocab, (rows,), device=CUDA, generator=generator)
    targets[:2] = torch.tensor([0, vocab - 1], device=CUDA)
    grad_weight = torch.zeros_like(weight)
    leaf = x.clone().requires_grad_()
    loss = HeadLoss.apply(leaf, weight, grad_weight, targets, vocab)
    (ours,) = torch.autograd.grad(loss, leaf)
    exact_x, exact_weight = (value.double().requires_grad_() for value in (x, weight[:vocab]))
    exact = torch.nn.functional.cross_entropy(exact_x @ exact_weight.t(), targets)
    exact_grad_x, exact_grad_weight = torch.autograd.grad(exact, (exact_x, exact_weight))
    assert float(loss.detach()) == pytest.approx(exact.item(), rel=1e-3)
    assert relative(ours, exact_grad_x) < 0.02
    assert relative(grad_weight[:vocab], exact_grad_weight) < 0.02
    assert not grad_weight[vocab:].any()
    with torch.no_grad():
        again = HeadLoss.apply(x, weight, grad_weight, targets, vocab)
    assert torch.equal(again, loss)


@pytest.mark.parametrize("shape", [(300, 256, 704), (70, 64, 72), (2048, 1024, 2816), (1, 64, 8)])
def test_the_feed_forward_layer_is_that_of_plain_operations(shape: tuple[int, int, int]) -> None:
    from pytest_gates.model.fused.functions import AddFeedForward
    from pytest_gates.model.fused.gradients import Alone

    N, C, F = shape
    generator = torch.Generator(device=CUDA).manual_seed(N)

    def some(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, device=CUDA, generator=generator) * scale).bfloat16()

    residual, x, dy = some(N, C), some(N, C), some(N, C)
    gate_up, down = some(2 * F, C, scale=C**-0.5), some(C, F, scale=F**-0.5)
    into = torch.zeros_like(gate_up), torch.zeros_like(down)
    leaves = [value.clone().requires_grad_() for value in (residual, x)]
    out = AddFeedForward.apply(
        leaves[0] * 1, leaves[1] * 1, gate_up, down, (Alone(into[0]), Alone(into[1]))
    )
    ours = torch.autograd.grad(out, leaves, dy)
    exact = [value.double().requires_grad_() for value in (residual, x, gate_up, down)]
    gate, up = (exact[1] @ exact[2].t()).chunk(2, dim=-1)
    reference = exact[0] + (torch.nn.functional.silu(gate) * up) @ exact[3].t()
    wanted = torch.autograd.grad(reference, exact, dy.double())
    for found, expected in zip((out, *ours, *into), (reference, *wanted), strict=True):
        assert relative(found, expected) < 0.01


def test_the_embedding_gathers_the_gradients_of_a_token_however_often_it_occurs() -> None:
    from pytest_gates.model.fused.functions import Embed

    generator = torch.Generator(device=CUDA).manual_seed(0)
    often = torch.full((100,), 7, device=CUDA)
    tokens = torch.cat((often, torch.randint(0, 50, (60,), device=CUDA, generator=generator)))
    tokens = tokens[torch.randperm(len(tokens), device=CUDA, generator=generator)]
    grad = torch.randn(len(tokens), 64, device=CUDA, generator=generator).bfloat16()
    weight = torch.zeros(60, 64, device=CUDA, dtype=torch.bfloat16)
    ours = torch.full_like(weight, 9.0)
    anchor = torch.zeros((), device=CUDA, requires_grad=True)
    torch.autograd.grad(Embed.apply(anchor, tokens, weight, ours), anchor, grad)
    exact = torch.zeros_like(weight, dtype=torch.float64).index_add_(0, tokens, grad.double())
    assert relative(ours, exact) < 0.004
    assert not ours[50:].any()


def test_a_graph_replays_what_the_eager_step_does() -> None:
    run = small_run()
    model_a, model_b = initialised(SMALL, CUDA, 0), initialised(SMALL, CUDA, 0)
    eager, ours = Step(run, model_a, CUDA), fused(run, model_b)
    for index in range(6):
        said = []
        for step in (eager, ours):
            step.tokens.copy_(batch(index))
            step.lr.fill_(1e-3)
            said.append(read(step()))
        assert said[1].loss == pytest.approx(said[0].loss, rel=2e-3)
        assert said[1].grad_norm == pytest.approx(said[0].grad_norm, rel=3e-2)
        assert not said[1].unstable
    pairs = zip(model_a.parameters(), model_b.parameters(), strict=True)
    assert max(relative(b, a) for a, b in pairs) < 0.05
    assert {int(state["step"]) for state in ours.optimizer.state.values()} == {6}


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    model = initialised(SMALL, CUDA, 0)
    step = fused(small_run(), model)
    step.tokens.copy_(batch(0))
    step.lr.fill_(1e-3)
    step()
    step.state.w["norm"].fill_(float("nan"))
    before = step.state.masters.clone(), step.state.first.clone(), step.state.second.clone()
    said = read(step())
    assert said.unstable
    after = step.state.masters, step.state.first, step.state.second
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {int(state["step"]) for state in step.optimizer.state.values()} == {1}


def test_the_checksum_is_that_of_the_eager_step() -> None:
    from pytest_gates.model.fused.checksum import checksum, row_weights

    model = initialised(SMALL, CUDA, 0)
    expected = census.checksum(initialised(SMALL, CUDA, 0))
    step = fused(small_run(deterministic=True), model)
    assert checksum(step.state, row_weights(step.state)).item() == expected.item()
    assert census.checksum(model).item() == expected.item()
    flipped = step.state.masters.view(torch.int32)
    flipped[5] ^= 1
    assert checksum(step.state, row_weights(step.state)).item() != expected.item()


def telemetry(run: PretrainRun, folder: Path) -> list[dict[str, object]]:
    """The lines of a run in a process of its own."""
    folder.mkdir()
    request = Request(run=run, root=str(folder), cache=str(folder / "cache"))
    path = folder / "run.json"
    path.write_text(request.model_dump_json())
    subprocess.run(
        [sys.executable, "-m", "pytest_gates.model", str(path), str(folder / "out")], check=True
    )
    return [
        json.loads(line) for line in (folder / "out/telemetry-0.jsonl").read_text().splitlines()
    ]


def test_deterministic_mode_is_fused_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    run = small_run(deterministic=True, steps=20)
    told = [telemetry(run, tmp_path / name) for name in ("a", "b")]
    facts = [
        {line["name"]: line["value"] for line in lines if line["kind"] == "fact"} for lines in told
    ]
    assert facts[0]["execution"] == "fused"
    assert facts[0]["attention_backend"] == "TRITON_FLASH_ATTENTION"
    assert facts[0]["param_sha256"] == facts[1]["param_sha256"]
    kept = ("train_loss", "grad_norm", "param_hash")
    series = [
        [[line[name] for name in kept] for line in lines if line["kind"] == "step"]
        for lines in told
    ]
    assert series[0] == series[1]
    assert len({tuple(row) for row in series[0]}) == 20


def test_clipped_norm_is_what_adamw_took() -> None:
    step = fused(
        small_run(optimizer=Optimizer(lr=1e-3, warmup_steps=2, clip=0.05)),
        initialised(SMALL, CUDA, 0),
    )
    step.tokens.copy_(batch(0))
    step.lr.fill_(1e-3)
    said = read(step())
    assert said.grad_norm > 0.05
    assert step.clipped_norm() == pytest.approx(0.05, rel=1e-4)


def test_padding_of_the_vocabulary_stays_zero() -> None:
    step = fused(small_run(), initialised(SMALL, CUDA, 0))
    step.lr.fill_(1e-2)
    for index in range(3):
        step.tokens.copy_(batch(index))
        step()
    padding = step.state.w["head"][SMALL.vocab :]
    assert padding.shape[0] > 0
    assert not padding.any()


@pytest.mark.parametrize(
    "settings",
    [{"micro_batches": 2}, {"dtype": "fp32"}, {"execution": "eager"},
     {"statistics": [0]}, {"stimulus": {"kind": "nan", "step": 1}}],
)  # fmt: skip
def test_runs_that_do_not_fit_are_eager(settings: dict[str, object]) -> None:
    assert why_eager(small_run(**settings), CUDA, CLEAN) is not None


def test_a_whole_run_says_that_it_was_fused(tmp_path: Path) -> None:
    from pytest_gates.model.__main__ import run_request

    run = small_run(steps=12, checkpoint="epoch")
    request = Request(run=run, root=str(tmp_path), cache=str(tmp_path / "cache"))
    path = tmp_path / "run.json"
    path.write_text(request.model_dump_json())
    assert run_request(path, tmp_path / "out") == 0
    lines = [
        json.loads(line) for line in (tmp_path / "out/telemetry-0.jsonl").read_text().splitlines()
    ]
    facts = {line["name"]: line["value"] for line in lines if line["kind"] == "fact"}
    assert facts["execution"] == "fused"
    assert facts["attention_backend"] == "TRITON_FLASH_ATTENTION"
    assert facts["optimizer_steps"] == 12
    assert facts["param_sha256"] != facts["param_sha256_initial"]
    losses = [line["train_loss"] for line in lines if line["kind"] == "step"]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
