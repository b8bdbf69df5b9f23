"""The Llama-family decoder, in the unfused Hugging Face names of parameters and modules.

Shapes are written B (batch), T (time), C (hidden), H (query heads), K (key/value heads), D (width
of a head), F (intermediate) and V (vocabulary).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_gates.model.config import Architecture

Observe = Callable[[int, str, Tensor], None]
"""Called as `observe(layer, slot, tensor)`; layer -1 lies outside the blocks."""

BLOCK_SLOTS = ("attn_norm", "q", "k", "v", "q_rope", "k_rope", "attn_out", "attn_proj",
               "residual_mid", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl",
               "ffn_out", "residual_out")  # fmt: skip
"""Slots of a block, in the order a forward pass reaches them."""

FINAL_SLOTS = ("final_norm", "logits")
"""Slots after the last block, with layer -1."""

_INIT_STD = 0.02


def _seen(observe: Observe | None, layer: int, slot: str, tensor: Tensor) -> Tensor:
    if observe is not None:
        observe(layer, slot, tensor)
    return tensor


def rotary_tables(length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (arXiv:2104.09864), each T D, on the device of `like`.

    Pairs are (i, i + D/2), as in the checkpoints of Hugging Face, not (2i, 2i + 1).
    """
    pair = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32)
    frequency = theta ** (-pair / head_dim)
    position = torch.arange(length, device=like.device, dtype=torch.float32)
    angle = torch.outer(position, frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of `x` (B H T D) by its position's angle; keeps the type of `x`."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-right, left), dim=-1) * sin.to(x.dtype)


class Matrix(nn.Module):
    """A weight without values yet: OUT IN, as nn.Linear and nn.Embedding name and shape theirs.

    Those two draw values when they are built, which `Transformer.initialise` would throw away.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Projection(Matrix):
    """A linear map without bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis: ... IN -> ... OUT."""
        return F.linear(x, self.weight)


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
        self.head_dim = architecture.head_dim
        self.grouped = architecture.kv_heads != architecture.heads
        self.q_proj = Projection(architecture.hidden, architecture.hidden)
        self.k_proj = Projection(width, architecture.hidden)
        self.v_proj = Projection(width, architecture.hidden)
        self.o_proj = Projection(architecture.hidden, architecture.hidden)

    def forward(
        self, x: Tensor, tables: tuple[Tensor, Tensor], layer: int, observe: Observe | None
    ) -> Tensor:
        """Attend: B T C -> B T C."""
        B, T, C = x.shape
        q = _seen(observe, layer, "q", self.q_proj(x))  # B T C
        k = _seen(observe, layer, "k", self.k_proj(x))  # B T K*D
        v = _seen(observe, layer, "v", self.v_proj(x))  # B T K*D
        q = q.view(B, T, -1, self.head_dim).transpose(1, 2)  # B H T D
        k = k.view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D
        v = v.view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D
        q = _seen(observe, layer, "q_rope", rotate(q, *tables))
        k = _seen(observe, layer, "k_rope", rotate(k, *tables))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        y = _seen(observe, layer, "attn_out", y.transpose(1, 2).reshape(B, T, C))
        return _seen(observe, layer, "attn_proj", self.o_proj(y))


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.gate_proj = Projection(architecture.intermediate, architecture.hidden)
        self.up_proj = Projection(architecture.intermediate, architecture.hidden)
        self.down_proj = Projection(architecture.hidden, architecture.intermediate)

    def forward(self, x: Tensor, layer: int, observe: Observe | None) -> Tensor:
        """Transform each position: B T C -> B T C."""
        gate = _seen(observe, layer, "ffn_gate", self.gate_proj(x))  # B T F
        up = _seen(observe, layer, "ffn_up", self.up_proj(x))  # B T F
        active = _seen(observe, layer, "ffn_silu", F.silu(gate))  # B T F
        product = _seen(observe, layer, "ffn_swigl", active * up)  # B T F
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

    def forward(
        self, x: Tensor, tables: tuple[Tensor, Tensor], layer: int, observe: Observe | None
    ) -> Tensor:
        """Advance the residual stream: B T C -> B T C."""
        normed = _seen(observe, layer, "attn_norm", self.input_layernorm(x))
        x = _seen(
            observe, layer, "residual_mid", x + self.self_attn(normed, tables, layer, observe)
        )
        normed = _seen(observe, layer, "ffn_norm", self.post_attention_layernorm(x))
        return _seen(observe, layer, "residual_out", x + self.mlp(normed, layer, observe))


class Decoder(nn.Module):
    """Embedding, blocks and final norm, under the name `model` of the checkpoints."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.embed_tokens = Embedding(architecture.vocab, architecture.hidden)
        self.layers = nn.ModuleList(Block(architecture) for _ in range(architecture.layers))
        self.norm = nn.RMSNorm(architecture.hidden, eps=float(architecture.norm_eps))

    def forward(self, tokens: Tensor, observe: Observe | None) -> Tensor:
        """Encode: B T -> B T C."""
        shape = self.architecture
        x: Tensor = self.embed_tokens(tokens)  # B T C
        tables = rotary_tables(tokens.shape[1], shape.head_dim, float(shape.rope_theta), x)
        for layer, block in enumerate(self.layers):
            x = block(x, tables, layer, observe)
        return _seen(observe, -1, "final_norm", self.norm(x))


class Transformer(nn.Module):
    """A causal language model: tokens in, logits out.

    Its parameters have no values until `initialise` draws them; `initialised` does both steps.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Decoder(architecture)
        self.lm_head = Projection(architecture.vocab, architecture.hidden)
        if architecture.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: Tensor, observe: Observe | None = None) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: B T, integers below the vocabulary's size.
            observe: called at every slot (`BLOCK_SLOTS`, `FINAL_SLOTS`) with the live tensor.

        Returns:
            B T V.
        """
        return _seen(observe, -1, "logits", self.lm_head(self.model(tokens, observe)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter: normal(0, 0.02), norms 1.

        Projections into the residual stream are scaled by 1 / sqrt(2 * layers), so that its
        variance does not grow with depth (GPT-2's report, section 2.3).
        """
        residual = _INIT_STD / math.sqrt(2 * self.architecture.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0.0, residual, generator=generator)
            else:
                parameter.normal_(0.0, _INIT_STD, generator=generator)


def initialised(architecture: Architecture, device: torch.device, seed: int) -> Transformer:
    """A model on `device` with parameters drawn there from `seed`."""
    with device:
        model = Transformer(architecture)
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
