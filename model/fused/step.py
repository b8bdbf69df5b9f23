"""One optimizer step, fused, as one CUDA graph."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from pytest_gates.model.config import Optimizer
from pytest_gates.model.fused import kernels
from pytest_gates.model.fused.functions import AddNorm, Attention, Embed, HeadLoss, Linear, SwiGlu
from pytest_gates.model.fused.state import FusedState

WARM_UP = 2
"""Launches before capture: they compile the kernels and let the libraries choose theirs."""
ADAMW_BLOCK = 4096


class FusedStep:
    """A step over static tensors: write `tokens` and `lr`, call, read the report.

    The report is a tensor of three on the device: loss, gradient norm before clipping, learning
    rate. The first call warms up on a copy of the state and captures; every call replays.
    """

    def __init__(
        self, state: FusedState, settings: Optimizer, *, batch_size: int, seq_len: int
    ) -> None:
        device = state.weights.device
        self.state, self._settings = state, settings
        self.tokens = torch.zeros(batch_size, seq_len + 1, dtype=torch.int64, device=device)
        self.lr = torch.zeros((), device=device)
        self._count = torch.zeros((), device=device)
        self._scalars = torch.zeros(4, device=device)
        self._cos, self._sin = _tables(state, seq_len)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._report = torch.zeros(3, device=device)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of B (T + 1) tokens in nats; its backward pass fills the gradients."""
        a, w, g = self.state.architecture, self.state.w, self.state.g
        B, T = tokens.shape[0], tokens.shape[1] - 1
        shape = (B, T, a.heads, a.kv_heads, a.head_dim)
        eps = float(a.norm_eps)
        # Made anew each time: a kept leaf would tie a capture to the stream it was first used on.
        anchor = torch.zeros((), device=tokens.device, requires_grad=True)
        x = Embed.apply(anchor, tokens[:, :-1].reshape(-1), w["embed"], g["embed"])  # N C
        delta = None
        for layer in range(a.layers):
            at = f"{layer}."
            x, y = AddNorm.apply(x, delta, w[at + "norm_1"], g[at + "norm_1"], eps)
            y = Linear.apply(y, w[at + "qkv"], g[at + "qkv"])  # N (H + 2 K) D
            y = Attention.apply(y, self._cos, self._sin, shape)  # N C
            delta = Linear.apply(y, w[at + "out"], g[at + "out"])  # N C
            x, y = AddNorm.apply(x, delta, w[at + "norm_2"], g[at + "norm_2"], eps)
            y = Linear.apply(y, w[at + "gate_up"], g[at + "gate_up"])  # N 2F
            y = SwiGlu.apply(y)  # N F
            delta = Linear.apply(y, w[at + "down"], g[at + "down"])  # N C
        _, y = AddNorm.apply(x, delta, w["norm"], g["norm"], eps)
        targets = tokens[:, 1:].reshape(-1)
        self._anchor = anchor
        return HeadLoss.apply(y, w["head"], g["head"], targets, a.vocab)  # type: ignore[no-any-return]

    def gradients(self) -> Tensor:
        """Loss of `tokens`, with all gradients in the flat buffer."""
        loss = self.loss(self.tokens)
        torch.autograd.grad(loss, (self._anchor,))
        return loss.detach()

    def __call__(self) -> Tensor:
        """Launch the step; nothing here waits for the device."""
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._report

    def _capture(self) -> None:
        state = self.state
        kept = [t.clone() for t in (state.weights, state.masters, state.first, state.second)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._once()
        for now, before in zip(
            (state.weights, state.masters, state.first, state.second), kept, strict=True
        ):
            now.copy_(before)
        self._count.zero_()

    def _once(self) -> None:
        loss = self.gradients()
        norm = torch.linalg.vector_norm(self.state.gradients, dtype=torch.float32)
        self._count += 1
        self._update(norm)
        self._report.copy_(torch.stack((loss, norm, self.lr)))

    def _update(self, norm: Tensor) -> None:
        s, state = self._settings, self.state
        clip = (float(s.clip) / (norm + 1e-6)).clamp(max=1.0)
        first, second = (1 / (1 - beta**self._count) for beta in (s.beta1, s.beta2))
        self._scalars.copy_(torch.stack((self.lr, clip, first, second)))
        kernels.adamw[(triton.cdiv(state.size, ADAMW_BLOCK),)](
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
