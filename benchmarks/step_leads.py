"""What each choice of the fused step is worth: the part it changes, done so and done otherwise.

    python -m benchmarks.step_leads [--repetitions 5] [--only WORD]

Parts of the 370M's step at 16 x 512, both ways in turns, on inputs that are made once; a difference
is told for a whole step. What was predicted was written down before this was run: arithmetic, from
figures of other runs where there were any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.measure import REPETITIONS, in_order, limited, report, spread, turns
from pytest_gates.model.architecture import PRESETS, Architecture
from pytest_gates.model.attention import attend, rotary_tables, rotate
from pytest_gates.model.clock import Clock, clock_for
from pytest_gates.model.config import Data, Optimizer, PretrainRun
from pytest_gates.model.memory import LANES
from pytest_gates.model.parallel.group import ALONE
from pytest_gates.model.seams import Seams
from pytest_gates.model.step import Step
from pytest_gates.model.transformer import initialised

CALLS = 20
"""Calls that are timed together."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Lead:
    """A choice: how it is done, and how it would be done otherwise."""

    name: str
    predicted_ms: float
    """How much less a step takes, as was thought before this was run."""
    times: int
    """How often a step does it."""
    taken: Call
    otherwise: Call


@dataclass(frozen=True)
class Place:
    """Where and on what it is measured."""

    device: torch.device
    model: str
    batch: int
    length: int

    @property
    def shape(self) -> Architecture:
        """Of the model."""
        return PRESETS[self.model]

    @property
    def rows(self) -> int:
        """N."""
        return self.batch * self.length

    @property
    def padded_vocab(self) -> int:
        """VP."""
        return -(-self.shape.vocab // LANES) * LANES

    def random(self, *size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """As weights or activations may be."""
        return torch.randn(*size, device=self.device, dtype=dtype) * 0.02


def projections(at: Place, name: str, widths: Sequence[int], predicted_ms: float) -> Lead:
    """Products of the same input: one matrix, or one each. Forward and both gradients."""
    x = at.random(at.rows, at.shape.hidden)
    whole = at.random(sum(widths), at.shape.hidden)
    apart = whole.split(list(widths))
    dy = at.random(at.rows, sum(widths))
    each_dy = [piece.contiguous() for piece in dy.split(list(widths), dim=1)]

    def together() -> None:
        _, _, _ = x @ whole.t(), dy @ whole, dy.t() @ x

    def one_by_one() -> None:
        dx: Tensor | None = None
        for weight, piece in zip(apart, each_dy, strict=True):
            _, _ = x @ weight.t(), piece.t() @ x
            dx = piece @ weight if dx is None else dx.addmm_(piece, weight)

    return Lead(name, predicted_ms, at.shape.layers, together, one_by_one)


def query_key_value(at: Place) -> Lead:
    a = at.shape
    widths = [a.heads * a.head_dim, *[a.kv_heads * a.head_dim] * 2]
    return projections(at, "q, k and v one matrix", widths, 1.1)


def gate_and_up(at: Place) -> Lead:
    return projections(at, "gate and up one matrix", [at.shape.intermediate] * 2, 0.5)


def padded_vocabulary(at: Place) -> Lead:
    x = at.random(at.rows, at.shape.hidden)

    def over(columns: int) -> Call:
        weight, dy = at.random(columns, at.shape.hidden), at.random(at.rows, columns)
        return lambda: (x @ weight.t(), dy @ weight, dy.t() @ x)

    return Lead("the vocabulary padded to a multiple of 128", 3.0, 1, over(at.padded_vocab),
                over(at.shape.vocab))  # fmt: skip


def weights_beside_masters(at: Place) -> Lead:
    """The cast alone: that the update writes two bytes more is not taken off it."""
    masters = at.random(at.shape.parameters, dtype=torch.float32)
    weights = masters.bfloat16()
    return Lead("bf16 weights written by the update, no cast of masters each step", 0.75, 1,
                lambda: None, lambda: weights.copy_(masters))  # fmt: skip


def clip_in_the_update(at: Place) -> Lead:
    gradients = at.random(at.shape.parameters)
    clip = torch.ones((), device=at.device)
    return Lead("clipping within the update", 0.5, 1, lambda: None, lambda: gradients.mul_(clip))


def loss_of_bf16_logits(at: Place) -> Lead:
    from pytest_gates.model.fused.functions import HeadLoss

    x, weight = at.random(at.rows, at.shape.hidden), at.random(at.padded_vocab, at.shape.hidden)
    gradient = torch.empty_like(weight)
    targets = torch.randint(at.shape.vocab, (at.rows,), device=at.device)

    def taken() -> None:
        leaf = x.detach().requires_grad_()
        HeadLoss.apply(leaf, weight, gradient, targets, at.shape.vocab).backward()

    def otherwise() -> None:
        leaf, own = x.detach().requires_grad_(), weight.detach().requires_grad_()
        logits = leaf @ own.t()
        cross_entropy(logits[:, : at.shape.vocab].float(), targets).backward()

    return Lead("cross-entropy that writes no fp32 logits", 2.7, 1, taken, otherwise)


def own_attention(at: Place) -> Lead:
    from pytest_gates.model.fused.functions import Attention

    a = at.shape
    every = a.heads + 2 * a.kv_heads
    shape = at.batch, at.length, a.heads, a.kv_heads, a.head_dim
    packed, grad = at.random(at.rows, every * a.head_dim), at.random(at.rows, a.hidden)
    cos, sin = rotary_tables(at.length, a.head_dim, float(a.rope_theta), packed)
    half = cos[:, : a.head_dim // 2].contiguous(), -sin[:, : a.head_dim // 2].contiguous()

    def taken() -> None:
        # A leaf cannot be rotated in place; what stands in for it is a copy that both sides make.
        leaf = packed.detach().requires_grad_()
        Attention.apply(leaf.clone(), *half, shape).backward(grad)

    def otherwise() -> None:
        leaf = packed.detach().requires_grad_()
        heads = leaf.clone().view(at.batch, at.length, every, a.head_dim).transpose(1, 2)
        q, k, v = heads.split((a.heads, a.kv_heads, a.kv_heads), dim=1)
        out = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, None)
        out.transpose(1, 2).reshape(at.rows, a.hidden).backward(grad)

    return Lead("attention of its own, RoPE and packing in it, over SDPA's choice", 1.3, a.layers,
                taken, otherwise)  # fmt: skip


def pinned_tokens(at: Place) -> Lead:
    tokens = torch.zeros(at.batch, at.length + 1, dtype=torch.int64)
    pinned = tokens.pin_memory() if at.device.type == "cuda" else tokens
    there = tokens.to(at.device)

    def taken() -> None:
        there.copy_(pinned, non_blocking=True)

    return Lead("tokens from pinned memory", 0.0, 1, taken, lambda: there.copy_(tokens))


def run_of(at: Place, execution: str) -> PretrainRun:
    return PretrainRun(
        driver="pretrain", device=str(at.device), model=at.model,
        data=Data(corpus="python-stdlib"), seq_len=at.length,
        batch_size=at.batch, steps=100, optimizer=Optimizer(), execution=execution,
    )  # fmt: skip


def fused_step(at: Place, *, launched: bool = False) -> Any:
    """The step as it is, or `launched` kernel by kernel."""
    from pytest_gates.model.fused.step import FusedStep

    class Launched(FusedStep):
        def __call__(self) -> Tensor:
            self._once()
            return self._report

    run, kind = run_of(at, "auto"), Launched if launched else FusedStep
    step = kind(run, initialised(run.architecture, at.device, 0), at.device)
    prepare(step, at)
    return step


def prepare(step: Any, at: Place) -> None:
    """Tokens as many and as different as in text."""
    step.tokens.random_(at.shape.vocab)
    step.lr.fill_(1e-4)


def graph_of_the_step(at: Place) -> Lead:
    return Lead("the whole step in one CUDA graph", 0.5, 1, fused_step(at),
                fused_step(at, launched=True))  # fmt: skip


def graph_of_a_short_step(at: Place) -> Lead:
    lead = graph_of_the_step(Place(at.device, at.model, 1, 2048))
    return replace(lead, name="the same at 1 x 2048", predicted_ms=5.0)


def eager_step(at: Place) -> Step:
    run = run_of(at, "eager")
    step = Step(run, initialised(run.architecture, at.device, 0), at.device, Seams(), ALONE)
    prepare(step, at)
    return step


def eager_in_a_graph(at: Place) -> Lead:
    """The mode that was meant for short runs. 64 ms were known of such a step, 36 of ours."""
    step = eager_step(at)
    for group in step.optimizer.param_groups:
        group["capturable"] = True
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def otherwise() -> Step:
        graph.replay()
        return step  # whose parameters the graph writes to: they must live as long as it

    return Lead("the fused step over the eager one in a CUDA graph", 28.0, 1, fused_step(at),
                otherwise)  # fmt: skip


def compiled_blocks(at: Place) -> Lead:
    """Under torch.compile one by one, head and loss apart. 49.5 ms were known of such a step."""
    step = eager_step(at)
    for block in step._model.model.layers:
        block.compile()
    return Lead("the fused step over blocks compiled one by one", 15.0, 1, fused_step(at),
                step)  # fmt: skip


LEADS: tuple[Callable[[Place], Lead], ...] = (
    query_key_value, gate_and_up, padded_vocabulary, weights_beside_masters, clip_in_the_update,
    loss_of_bf16_logits, own_attention, pinned_tokens, graph_of_the_step, graph_of_a_short_step,
    eager_in_a_graph, compiled_blocks,
)  # fmt: skip


def timed(call: Call, clock: Clock[Any]) -> float:
    """Milliseconds of one call, of those that follow each other without a look at the device."""
    begin = clock.mark()
    for _ in range(CALLS):
        call()
    end = clock.mark()
    clock.wait(end)
    return clock.wall_ms(begin, end) / CALLS


def measured(lead: Lead, repetitions: int, clock: Clock[Any]) -> Iterator[tuple[float, float]]:
    """Both ways in turns, in the other order every second time, after one of each to warm up."""
    sides = {"taken": lead.taken, "otherwise": lead.otherwise}
    for call in sides.values():
        timed(call, clock)
    for turn in range(repetitions):
        ms = {name: timed(sides[name], clock) for name in in_order(sides, turn)}
        yield ms["taken"], ms["otherwise"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", default="", metavar="WORD", help="leads whose function has it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="llama-370m")
    options = limited(parser)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no NVIDIA GPU on this machine")
    at = Place(device, options.model, 16, 512)
    clock: Clock[Any] = clock_for(device)
    chosen = [make for make in LEADS if options.only in make.__name__]
    figures: dict[str, Any] = {}
    raw: dict[str, list[Any]] = {}
    for number in turns(len(chosen), options.within):
        lead = chosen[number](at)
        pairs = list(measured(lead, options.repetitions, clock))
        saved = [(otherwise - taken) * lead.times for taken, otherwise in pairs]
        figures |= {
            f"{lead.name}: predicted ms a step": lead.predicted_ms,
            f"{lead.name}: ms a step": spread(saved),
        }
        raw[lead.name] = pairs
        del lead
        if device.type == "cuda":
            torch.cuda.empty_cache()
        report("step_leads", figures, raw)


if __name__ == "__main__":
    main()
