"""One optimizer step, fused, as one CUDA graph."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.fused import kernels
from pytest_gates.model.fused.checksum import checksum, row_weights
from pytest_gates.model.fused.functions import (
    AddFeedForward,
    AddLinear,
    Attention,
    Embed,
    HeadLoss,
    Linear,
    Norm,
    norm_programs,
)
from pytest_gates.model.fused.gradients import Alone, Stack
from pytest_gates.model.fused.launch import compiling, launch
from pytest_gates.model.fused.state import FusedState
from pytest_gates.model.moments import FlatMoments
from pytest_gates.model.step import Mark, unmarked
from pytest_gates.model.transformer import Transformer

WARM_UP = 2
"""Launches before capture: they let the libraries choose their kernels."""
ADAMW_BLOCK = 4096
STACKED = 4
"""Layers whose gradients of small matrices are made by one product."""


class FusedStep:
    """The same step as `step.Step`, over the same model and optimizer, whose state it holds flat.

    The model's parameters become views on the masters, the optimizer's moments views on the flat
    moments: whoever reads, hashes or saves them sees the step's own state.
    """

    poison: Tensor | None = None
    attention: str | None = "TRITON_FLASH_ATTENTION"

    def __init__(self, run: PretrainRun, model: Transformer, device: torch.device) -> None:
        self.state = FusedState(run.architecture, device)
        self.state.load(model)
        self._settings = run.optimizer
        self.tokens = torch.zeros(run.batch_size, run.seq_len + 1, dtype=torch.int64, device=device)
        self.lr = torch.zeros((), device=device)
        self.unstable = torch.zeros((), device=device)
        self.mark: Mark = unmarked
        self._count = torch.zeros((), device=device)
        self._scalars = torch.zeros(5, device=device)
        self._cos, self._sin = _tables(self.state, run.seq_len)
        norms, width = 2 * run.architecture.layers + 1, run.architecture.hidden
        programs = norm_programs(run.tokens_per_step, device)
        self._partials = torch.zeros(norms, programs, width, device=device)  # norm P C
        self._graph: torch.cuda.CUDAGraph | None = None
        size = 5 if run.deterministic else 4
        self._report = torch.zeros(size, dtype=torch.float64, device=device)
        self._hash_weights = row_weights(self.state) if run.deterministic else None
        self._model = model
        self.optimizer = FlatMoments()
        masters = dict(self.state.named(self.state.masters))
        for name, parameter in model.named_parameters():
            parameter.data = masters[name]
        self._share_moments()

    def settings(self) -> dict[str, float]:
        """`beta1`, `beta2`, `eps` and `weight_decay` as the update itself has them."""
        names = ("beta1", "beta2", "eps", "weight_decay")
        return {name: float(getattr(self._settings, name)) for name in names}

    def gradients(self) -> list[Tensor]:
        """Every gradient there is, for the census."""
        return [self.state.gradients]

    def clipped_norm(self) -> float:
        """Norm of all gradients as the optimizer took them; waits for the device."""
        norm = torch.linalg.vector_norm(self.state.gradients, dtype=torch.float64)
        return float(norm * self._scalars[1])

    def _share_moments(self) -> None:
        """Make the optimizer's moments views on the flat ones, which take what is there already."""
        state = self.state
        first, second = dict(state.named(state.first)), dict(state.named(state.second))
        for name, parameter in self._model.named_parameters():
            known = self.optimizer.state.get(parameter)
            if known:
                first[name].copy_(known["exp_avg"])
                second[name].copy_(known["exp_avg_sq"])
                self._count.copy_(known["step"])
            self.optimizer.state[parameter] = {
                "step": self._count,
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of B (T + 1) tokens in nats; its backward pass fills the gradients."""
        a, w, g, p = self.state.architecture, self.state.w, self.state.g, self._partials
        B, T = tokens.shape[0], tokens.shape[1] - 1
        shape = (B, T, a.heads, a.kv_heads, a.head_dim)
        eps = float(a.norm_eps)
        # Made anew each time: a kept leaf would tie a capture to the stream it was first used on.
        anchor = torch.zeros((), device=tokens.device, requires_grad=True)
        x = Embed.apply(anchor, tokens[:, :-1].reshape(-1), w["embed"], g["embed"])  # N C
        for layer in range(a.layers):
            at = f"{layer}."
            if layer % STACKED == 0:
                count = min(STACKED, a.layers - layer)
                qkv, attended = (
                    Stack(self.state.stacked(name, layer, count), B * T).parts()
                    for name in ("qkv", "out")
                )
            into, out = qkv[layer % STACKED], attended[layer % STACKED]
            x, y = Norm.apply(x, w[at + "norm_1"], p[2 * layer], eps, into, None)
            y = Linear.apply(y, w[at + "qkv"], into)  # N (H + 2 K) D
            y = Attention.apply(y, self._cos, self._sin, shape, out, into)  # N C
            x = AddLinear.apply(x, y, w[at + "out"], out)  # N C
            x, y = Norm.apply(x, w[at + "norm_2"], p[2 * layer + 1], eps, None, out)
            gradients = Alone(g[at + "gate_up"]), Alone(g[at + "down"])
            x = AddFeedForward.apply(x, y, w[at + "gate_up"], w[at + "down"], gradients)  # N C
        _, y = Norm.apply(x, w["norm"], p[-1], eps, None, None)
        targets = tokens[:, 1:].reshape(-1)
        self._anchor = anchor
        return HeadLoss.apply(y, w["head"], g["head"], targets, a.vocab)  # type: ignore[no-any-return]

    def accumulate(self) -> Tensor:
        """Loss of `tokens`, with all gradients in the flat buffer."""
        loss = self.loss(self.tokens)
        # In this thread: another has no CUDA context of its own yet, nor is it being captured.
        with torch.autograd.set_multithreading_enabled(False):
            torch.autograd.grad(loss, (self._anchor,))
        # The norms are the end of the flat buffers, in the order of the forward pass.
        self.state.gradients[self.state.decayed :].copy_(self._partials.sum(1).flatten())
        return loss.detach()

    def __call__(self) -> Tensor:
        """Launch the step; nothing here waits for the device."""
        if self._graph is None:
            self._share_moments()  # a checkpoint may have put others in their place
            self.state.weights.copy_(self.state.masters)
            self._graph = self._captured()
        self._graph.replay()
        return self._report

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Warm up on the side and capture; an unstable step leaves the state as it is."""
        self.unstable.fill_(1)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            with compiling(self.state.weights.device):
                self._once()
            for _ in range(WARM_UP):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        # What the warm-up held would lie beside what the graph holds for good.
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._once()
        self.unstable.zero_()
        return graph

    def _once(self) -> None:
        loss = self.accumulate()
        norm = torch.linalg.vector_norm(self.state.gradients, dtype=torch.float32)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        self.unstable.copy_(torch.maximum(self.unstable, (~finite).float()))
        self._count += 1 - self.unstable
        self._update(norm)
        said = [loss, norm, self.lr, self.unstable]
        if self._hash_weights is not None:
            said.append(checksum(self.state, self._hash_weights))
        self._report.copy_(torch.stack([value.double() for value in said]))

    def _update(self, norm: Tensor) -> None:
        s, state = self._settings, self.state
        clip = (float(s.clip) / (norm + 1e-6)).clamp(max=1.0)
        first, second = (1 / (1 - beta**self._count) for beta in (s.beta1, s.beta2))
        self._scalars.copy_(torch.stack((self.lr, clip, first, second, self.unstable)))
        launch(
            kernels.adamw, (triton.cdiv(state.size, ADAMW_BLOCK),),
            state.weights, state.masters, state.first, state.second, state.gradients,
            self._scalars, state.size, state.decayed, s.beta1, s.beta2, float(s.eps),
            float(s.weight_decay), ADAMW_BLOCK, num_warps=8,
        )  # fmt: skip


def _tables(state: FusedState, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE, each T D/2, in fp32."""
    a, device = state.architecture, state.weights.device
    pair = torch.arange(0, a.head_dim, 2, device=device, dtype=torch.float32)
    frequency = float(a.rope_theta) ** (-pair / a.head_dim)
    angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()
