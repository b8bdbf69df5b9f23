"""The training step of the ~1M model on the CPU, over the same model in plain `torch.nn` layers.

    python -m benchmarks cpu_step

The peer is what anybody would write: `nn.Linear`, `nn.Embedding`, `nn.RMSNorm`, SDPA, clipping,
cross-entropy and fused AdamW, rotary tables made once; nothing is compiled on either side. Both
start from the same weights, take turns step by step in one process on one thread, and see the same
tokens; their losses must agree. Ours is the trainer's own `Step`, with its guards and its report
read back. The ratio is one of neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import in_order, report, spread
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.step import Step, read
from pytest_gates.model.transformer import Transformer, initialised

STEPS, WARM_UP, REPETITIONS = 40, 10, 5
NEAR = 1e-4
"""Nats by which the losses may differ while both train alike."""
SHAPES = ((8, 64), (4, 256))
"""Sequences and tokens of each."""
CPU = torch.device("cpu")


def declared(batch: int, tokens: int) -> PretrainRun:
    """The run of the contracts' smoke test, in a shape."""
    return PretrainRun.model_validate(
        {"driver": "pretrain", "device": "cpu", "model": "llama-1m",
         "data": {"corpus": "python-stdlib"}, "seq_len": tokens, "batch_size": batch,
         "steps": STEPS, "optimizer": {"lr": 3.0e-3, "warmup_steps": 5}}
    )  # fmt: skip


class PlainBlock(nn.Module):
    """A block of the same shape, written with `torch.nn` alone."""

    def __init__(self, run: PretrainRun) -> None:
        super().__init__()
        shape = run.architecture
        self.heads, self.kv_heads, self.width = shape.heads, shape.kv_heads, shape.head_dim
        inner = shape.kv_heads * shape.head_dim
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=float(shape.norm_eps))
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.v_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=float(shape.norm_eps))
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """B T C -> B T C."""
        batch, length, hidden = x.shape
        normed = self.input_layernorm(x)
        q = self.q_proj(normed).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self.k_proj(normed).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        v = self.v_proj(normed).view(batch, length, self.kv_heads, self.width).transpose(1, 2)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        grouped = self.heads != self.kv_heads
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.o_proj(y.transpose(1, 2).reshape(batch, length, hidden))
        normed = self.post_attention_layernorm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE as Hugging Face writes it."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Plain(nn.Module):
    """The same model, written with `torch.nn` alone."""

    def __init__(self, run: PretrainRun) -> None:
        super().__init__()
        shape = run.architecture
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(PlainBlock(run) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=float(shape.norm_eps))
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if shape.tied:
            self.lm_head.weight = self.embed_tokens.weight
        pair = torch.arange(0, shape.head_dim, 2).float()
        angle = torch.arange(run.seq_len)[:, None] * float(shape.rope_theta) ** (
            -pair / shape.head_dim
        )
        angle = torch.cat((angle, angle), dim=-1)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: Tensor) -> Tensor:
        """B T -> B T V."""
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits

    @torch.no_grad()
    def take(self, ours: Transformer) -> None:
        """Take over the weights of our model."""
        theirs = {name.removeprefix("model."): p for name, p in ours.named_parameters()}
        for name, parameter in self.named_parameters():
            for inner in ("", "self_attn.", "mlp."):
                parts = name.rsplit(".", 2)
                spelt = ".".join([*parts[:-2], f"{inner}{parts[-2]}", parts[-1]])
                if spelt in theirs:
                    parameter.copy_(theirs[spelt])
                    break
            else:
                raise AssertionError(name)


def plain_step(run: PretrainRun, model: Plain) -> Callable[[Tensor, float], float]:
    """A step of the peer: tokens and learning rate -> loss."""
    settings = run.optimizer
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": float(settings.weight_decay)},
         {"params": vectors, "weight_decay": 0.0}],
        lr=0.0, betas=(settings.beta1, settings.beta2), eps=float(settings.eps), fused=True,
    )  # fmt: skip

    def step(tokens: Tensor, lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(model.parameters(), float(settings.clip))
        optimizer.step()
        return loss.item()

    return step


def our_step(run: PretrainRun, model: Transformer) -> Callable[[Tensor, float], float]:
    """The trainer's step, its report read back as the trainer does."""
    work = Step(run, model, CPU)

    def step(tokens: Tensor, lr: float) -> float:
        work.tokens.copy_(tokens)
        work.lr.fill_(lr)
        return read(work()).loss

    return step


def measured(batch: int, tokens: int) -> dict[str, list[float]]:
    """Milliseconds of each step, of both sides in turns."""
    run = declared(batch, tokens)
    ours = initialised(run.architecture, CPU, seed=0)
    plain = Plain(run)
    plain.take(ours)
    sides = {"ours": our_step(run, ours), "plain": plain_step(run, plain)}
    chance = torch.Generator().manual_seed(0)
    took: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(STEPS):
        dealt = torch.randint(256, (batch, tokens + 1), generator=chance)
        lr = learning_rate(step, STEPS, run.optimizer)
        losses = {}
        for name in in_order(sides, step):
            begun = time.perf_counter()
            losses[name] = sides[name](dealt, lr)
            took[name].append((time.perf_counter() - begun) * 1000)
        if step < WARM_UP:  # later, rounding in another order has grown
            assert abs(losses["ours"] - losses["plain"]) < NEAR, losses
    return {name: many[WARM_UP:] for name, many in took.items()}


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    raw: dict[str, list[float]] = {}
    for batch, tokens in SHAPES:
        medians = []
        for repetition in range(REPETITIONS):
            took = measured(batch, tokens)
            raw |= {f"{name}_{batch}x{tokens}_{repetition}": many for name, many in took.items()}
            pairs = sorted(a / b for a, b in zip(took["ours"], took["plain"], strict=True))
            medians.append(pairs[len(pairs) // 2])
        figures[f"ratio_{batch}x{tokens}"] = spread(medians)
        for name in ("ours", "plain"):
            many = [ms for key, one in raw.items() if key.startswith(f"{name}_{batch}x{tokens}_")
                    for ms in one]  # fmt: skip
            figures[f"{name}_{batch}x{tokens}_ms"] = spread(many)
    report("cpu_step", figures, raw)


if __name__ == "__main__":
    main()
