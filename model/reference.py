"""The model written a second time, as its papers' formulas read: what the fast path must equal.

It takes nothing from `transformer` but the parameters by their names, so that an error there is
none here: explicit scores and mask, rotation by complex numbers, one matrix a formula. Slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor

from pytest_gates.model.config import Architecture

Parameters = Mapping[str, Tensor]
"""Parameters by their Hugging Face names."""

_AT_ONCE = 4096
"""Tokens of windows that go through the blocks together: of fewer a GPU waits for launches."""


@torch.no_grad()
def reference_logits(shape: Architecture, weights: Parameters, tokens: Tensor) -> Tensor:
    """Logits, ... T V in float32, of sequences of T tokens, ... T."""
    return _head(shape, weights, _blocks(shape, weights, tokens))


def _blocks(shape: Architecture, weights: Parameters, tokens: Tensor) -> Tensor:
    """From tokens to what the last block hands on: ... T -> ... T C."""
    x = weights["model.embed_tokens.weight"][tokens].float()  # ... T C
    for layer in range(shape.layers):
        own = {
            name.removeprefix(f"model.layers.{layer}."): weight.float()
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = x + _attention(shape, own, _normed(x, own["input_layernorm.weight"], shape))
        normed = _normed(x, own["post_attention_layernorm.weight"], shape)
        gate = normed @ own["mlp.gate_proj.weight"].T  # ... T F
        up = normed @ own["mlp.up_proj.weight"].T  # ... T F
        x = x + (gate * torch.sigmoid(gate) * up) @ own["mlp.down_proj.weight"].T
    return x


def _head(shape: Architecture, weights: Parameters, x: Tensor) -> Tensor:
    """... T C -> ... T V."""
    out = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
    final = _normed(x, weights["model.norm.weight"].float(), shape)
    return final @ weights[out].float().T


def _normed(x: Tensor, weight: Tensor, shape: Architecture) -> Tensor:
    """RMSNorm (arXiv:1910.07467, equation 4)."""
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    return x / torch.sqrt(mean_square + float(shape.norm_eps)) * weight


def _attention(shape: Architecture, own: Parameters, x: Tensor) -> Tensor:
    """Grouped-query attention, a head at a time: ... T C -> ... T C."""
    T, D = x.shape[-2], shape.head_dim
    allowed = torch.ones(T, T, device=x.device).tril().bool()
    q, k = (_rotated(_projected(own, name, x, D), shape) for name in ("q", "k"))  # ... H T D
    v = _projected(own, "v", x, D)
    group = shape.heads // shape.kv_heads
    heads = []
    for head in range(shape.heads):
        shared = head // group
        scores = q[..., head, :, :] @ k[..., shared, :, :].mT / math.sqrt(D)  # ... T T
        weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)
        heads.append(weights @ v[..., shared, :, :])
    return torch.cat(heads, dim=-1) @ own["self_attn.o_proj.weight"].T


def _projected(own: Parameters, name: str, x: Tensor, width: int) -> Tensor:
    """Heads of q, k or v, with its bias where the model has one (Qwen2): ... T C -> ... H T D."""
    mapped = x @ own[f"self_attn.{name}_proj.weight"].T
    bias = own.get(f"self_attn.{name}_proj.bias")
    mapped = mapped if bias is None else mapped + bias
    return mapped.view(*mapped.shape[:-1], -1, width).transpose(-2, -3)


def _rotated(x: Tensor, shape: Architecture) -> Tensor:
    """RoPE (arXiv:2104.09864, equation 13) over pairs (i, i + D/2): ... T D -> ... T D."""
    T, D = x.shape[-2:]
    turn = _turns(T, D, float(shape.rope_theta), x.device)
    pairs = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * turn
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@lru_cache(maxsize=16)
def _turns(length: int, dim: int, theta: float, device: torch.device) -> Tensor:
    """By how much each pair of each position turns: T D/2. The same for all heads of all layers."""
    exponent = -2 * torch.arange(dim // 2, dtype=torch.float64) / dim
    angle = torch.outer(torch.arange(length, dtype=torch.float64), theta**exponent)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(device)


@torch.no_grad()
def reference_loss(shape: Architecture, weights: Parameters, windows: NDArray[int64]) -> float:
    """Mean cross-entropy in nats of windows of T + 1 tokens, each position against the next."""
    device = weights["model.embed_tokens.weight"].device
    length = windows.shape[1] - 1
    total = 0.0
    for some in torch.split(torch.from_numpy(windows).to(device), max(1, _AT_ONCE // length)):
        for x, window in zip(_blocks(shape, weights, some[:, :-1]), some, strict=True):
            logits = _head(shape, weights, x)  # T V: those of one window, for they are large
            chosen = logits.gather(1, window[1:, None]).squeeze(1)
            total += float((logits.logsumexp(dim=-1) - chosen).sum())
    return total / float(len(windows) * length)


def relative_error(told: float, reference: float) -> float:
    """|told - reference| / |reference|."""
    return abs(told - reference) / abs(reference)


def clip_error(clipped_norm: float, told_norm: float, largest: float) -> float:
    """How far the norm of clipped gradients is from min(told norm, largest), relative to that."""
    return relative_error(clipped_norm, min(told_norm, largest))
