"""The Llama-family decoder, in the unfused Hugging Face names of parameters and modules.

Shapes are written B (batch), T (time), C (hidden), H (query heads), K (key/value heads), D (width
of a head), F (intermediate) and V (vocabulary).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_gates.model.architecture import Architecture
from pytest_gates.model.attention import Cache, LayerCache, attend, rotary_at, rotate, visible

Observe = Callable[[int, str, Tensor], Tensor | None]
"""Called as `observe(layer, slot, tensor)`; layer -1 lies outside the blocks. A tensor that it
returns takes the slot's place in the rest of the pass."""

_INIT_STD = 0.02


def _seen(observe: Observe | None, layer: int, slot: str, tensor: Tensor) -> Tensor:
    if observe is None:
        return tensor
    instead = observe(layer, slot, tensor)
    return tensor if instead is None else instead


@dataclass(frozen=True)
class Kernels:
    """What a block computes with between its matrices: the seam of the forward path's faults."""

    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = attend
    combine: Callable[[Tensor, Tensor], Tensor] = torch.mul
    """SiLU of the gate, and up -> their product, each B T F."""


@dataclass(frozen=True)
class Span:
    """Where the tokens of one pass lie, the same for every block."""

    positions: Tensor
    """T or B T."""
    tables: tuple[Tensor, Tensor]
    """Cosines and sines of the positions."""
    mask: Tensor | None = None
    """Keys that each query sees, broadcastable to B H T S; None: those up to itself."""
    cache: LayerCache | None = None
    """The block's keys and values of earlier passes; those of this one are added."""


class Matrix(nn.Module):
    """A weight without values yet: OUT IN, as nn.Linear and nn.Embedding name and shape theirs.

    Those two draw values when they are built, which `Transformer.initialise` would throw away.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Projection(Matrix):
    """A linear map, without bias unless asked for."""

    def __init__(self, rows: int, columns: int, *, bias: bool = False) -> None:
        super().__init__(rows, columns)
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis: ... IN -> ... OUT."""
        return F.linear(x, self.weight, self.bias)


class Embedding(Matrix):
    """A row for each token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up: B T -> B T C."""
        return F.embedding(tokens, self.weight)


class Attention(nn.Module):
    """Causal grouped-query attention (arXiv:2305.13245)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.kv_heads * architecture.head_dim
        bias = architecture.attention_bias
        self.head_dim = architecture.head_dim
        self.kernels = Kernels()
        self.q_proj = Projection(architecture.hidden, architecture.hidden, bias=bias)
        self.k_proj = Projection(width, architecture.hidden, bias=bias)
        self.v_proj = Projection(width, architecture.hidden, bias=bias)
        self.o_proj = Projection(architecture.hidden, architecture.hidden)

    def forward(self, x: Tensor, span: Span, layer: int, observe: Observe | None) -> Tensor:
        """Attend: B T C -> B T C."""
        B, T, C = x.shape
        q = _seen(observe, layer, "q", self.q_proj(x))  # B T C
        k = _seen(observe, layer, "k", self.k_proj(x))  # B T K*D
        v = _seen(observe, layer, "v", self.v_proj(x))  # B T K*D
        q = q.view(B, T, -1, self.head_dim).transpose(1, 2)  # B H T D
        k = k.view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D
        v = v.view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D
        q = _seen(observe, layer, "q_rope", self.kernels.rotate(q, *span.tables))
        k = _seen(observe, layer, "k_rope", self.kernels.rotate(k, *span.tables))
        if span.cache is not None:
            k, v = span.cache.extend(span.positions, k, v, whole=span.mask is not None)
        y = self.kernels.attend(q, k, v, span.mask)  # B H T D
        y = _seen(observe, layer, "attn_out", y.transpose(1, 2).reshape(B, T, C))
        return _seen(observe, layer, "attn_proj", self.o_proj(y))


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.kernels = Kernels()
        self.gate_proj = Projection(architecture.intermediate, architecture.hidden)
        self.up_proj = Projection(architecture.intermediate, architecture.hidden)
        self.down_proj = Projection(architecture.hidden, architecture.intermediate)

    def forward(self, x: Tensor, layer: int, observe: Observe | None) -> Tensor:
        """Transform each position: B T C -> B T C."""
        gate = _seen(observe, layer, "ffn_gate", self.gate_proj(x))  # B T F
        up = _seen(observe, layer, "ffn_up", self.up_proj(x))  # B T F
        active = _seen(observe, layer, "ffn_silu", F.silu(gate))  # B T F
        product = _seen(observe, layer, "ffn_swigl", self.kernels.combine(active, up))  # B T F
        return _seen(observe, layer, "ffn_out", self.down_proj(product))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        eps = float(architecture.norm_eps)
        self.input_layernorm = nn.RMSNorm(architecture.hidden, eps=eps)
        self.self_attn = Attention(architecture)
        self.post_attention_layernorm = nn.RMSNorm(architecture.hidden, eps=eps)
        self.mlp = FeedForward(architecture)

    def forward(self, x: Tensor, span: Span, layer: int, observe: Observe | None) -> Tensor:
        """Advance the residual stream: B T C -> B T C."""
        normed = _seen(observe, layer, "attn_norm", self.input_layernorm(x))
        x = _seen(observe, layer, "residual_mid", x + self.self_attn(normed, span, layer, observe))
        normed = _seen(observe, layer, "ffn_norm", self.post_attention_layernorm(x))
        return _seen(observe, layer, "residual_out", x + self.mlp(normed, layer, observe))


RunBlock = Callable[[nn.Module, Tensor, Span, int, Observe | None], Tensor]
"""Runs one block of a decoder: block, x (B T C), span, layer, observer -> B T C."""


def _run_block(
    block: nn.Module, x: Tensor, span: Span, layer: int, observe: Observe | None
) -> Tensor:
    out: Tensor = block(x, span, layer, observe)
    return out


class Decoder(nn.Module):
    """Embedding, blocks and final norm, under the name `model` of the checkpoints."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embed_tokens = Embedding(architecture.vocab, architecture.hidden)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.layers))
        self.norm = nn.RMSNorm(architecture.hidden, eps=float(architecture.norm_eps))
        self.rope_theta = float(architecture.rope_theta)
        self.run_block: RunBlock = _run_block
        self._first: tuple[object, Span] | None = None
        """The span of the last pass from position 0 on, and what it was made for."""

    def forward(
        self,
        tokens: Tensor,
        observe: Observe | None = None,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Encode: B T -> B T C; see `Transformer.forward`."""
        x: Tensor = self.embed_tokens(tokens)  # B T C
        span = self.span(x, positions, valid, cache)
        for layer, block in enumerate(self.layers):
            if cache is not None:
                span = replace(span, cache=cache.layers[layer])
            x = self.run_block(block, x, span, layer, observe)
        return _seen(observe, -1, "final_norm", self.norm(x))

    def span(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Span:
        """Where the tokens embedded in `x` (B T C) lie, each block's cache left out."""
        if positions is None:
            if valid is None:
                return self._span_from_0(x)
            positions = torch.arange(x.shape[1], device=x.device)
        cos, sin = rotary_at(positions, self.architecture.head_dim, self.rope_theta)
        # Cast here once where every block would: in the type of the stream, if that is a low one.
        tables = cos.to(x.dtype), sin.to(x.dtype)
        mask = None
        if valid is not None:
            order = torch.arange(x.shape[1], device=x.device)
            mask = visible(order, order) & valid[:, None, None, :]
            mask = mask | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        elif cache is not None:
            mask = visible(positions, torch.arange(cache.length, device=x.device))
        return Span(positions, tables, mask)

    def _span_from_0(self, x: Tensor) -> Span:
        """The same for a pass from its beginning, kept from step to step.

        A graph that is captured makes its own: it outlives what is kept here, and what it makes
        has no values until it is replayed.
        """
        wanted = x.shape[1], x.dtype, x.device, self.rope_theta
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return self.span(x, torch.arange(x.shape[1], device=x.device))
        if self._first is None or self._first[0] != wanted:
            self._first = wanted, self.span(x, torch.arange(x.shape[1], device=x.device))
        return self._first[1]


class Transformer(nn.Module):
    """A causal language model: tokens in, logits out.

    Its parameters have no values until `initialise` draws them; `initialised` does both steps.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Decoder(architecture)
        self.lm_head = Projection(architecture.vocab, architecture.hidden)
        self.tie()

    def tie(self) -> None:
        """Make the output projection the embedding's own storage, if the architecture says so."""
        if self.architecture.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        observe: Observe | None = None,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: B T, integers below the vocabulary's size.
            observe: called at every slot (`slots.SLOTS`) with the live tensor.
            positions: T or B T; from 0 if left out. With a cache, T of tokens that follow those
                in it; left out, the cache is filled from its beginning.
            valid: B T, False for padding, which no other token sees.
            cache: keys and values of earlier passes; those of this one are added.

        Returns:
            B T V.
        """
        x = self.model(tokens, observe, positions=positions, valid=valid, cache=cache)
        return _seen(observe, -1, "logits", self.lm_head(x))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter: normal(0, 0.02), norms 1, biases 0.

        Projections into the residual stream are scaled by 1 / sqrt(2 * layers), so that its
        variance does not grow with depth (GPT-2's report, section 2.3).
        """
        residual = _INIT_STD / math.sqrt(2 * self.architecture.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0.0, residual, generator=generator)
            else:
                parameter.normal_(0.0, _INIT_STD, generator=generator)


def empty(
    architecture: Architecture, device: torch.device, dtype: torch.dtype = torch.float32
) -> Transformer:
    """A model on `device` whose parameters have no values yet, never held in another type."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    # Built in place: to_empty() from the meta device would import sympy first, 2 s on a GPU host.
    try:
        with device:
            return Transformer(architecture)
    finally:
        torch.set_default_dtype(usual)


def initialised(
    architecture: Architecture,
    device: torch.device,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """A model on `device` with parameters drawn there from `seed`."""
    model = empty(architecture, device, dtype)
    model.initialise(torch.Generator(device).manual_seed(seed))
    return model


def attention_backend(
    architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> SDPBackend:
    """The first attention kernel that can carry out this model, so that it can be pinned and named.

    Flash attention has a deterministic backward pass, which the others lack or have not everywhere.
    """
    D = architecture.head_dim
    q = torch.zeros(1, architecture.heads, 16, D, device=device, dtype=dtype)
    k = torch.zeros(1, architecture.kv_heads, 16, D, device=device, dtype=dtype)
    grouped = architecture.kv_heads != architecture.heads
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            # torch warns of each reason why a kernel does not fit; the answer is all we ask for.
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=grouped)
        except RuntimeError:
            continue
        return backend
    return SDPBackend.MATH
