"""The float64 oracle: the model as its papers' formulas read, every slot of it kept.

It takes nothing from `transformer` or `attention`, so that an error there is none here: explicit
scores and mask, rotation by complex numbers, and weights by their names. Shapes are written as in
`transformer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pytest_gates.model.architecture import Architecture

Place = tuple[int, str]
"""Layer and slot."""
Weight = Callable[[str], Tensor]
"""A parameter by its Hugging Face name, in float64."""


def oracle(
    shape: Architecture, weight: Weight, tokens: Tensor, positions: Tensor
) -> dict[Place, Tensor]:
    """Every slot of one sequence of T tokens, in the order of a pass; differentiable.

    Args:
        shape: the architecture.
        weight: hands out the parameters.
        tokens: T, on the device to compute on.
        positions: T, where each of them lies for the rotation.

    Returns:
        Each slot in the shape in which the forward path shows it, with a batch of 1.
    """
    seen: dict[Place, Tensor] = {}
    x = weight("model.embed_tokens.weight")[tokens][None]  # 1 T C
    for layer in range(shape.layers):
        x = _block(shape, weight, layer, x, positions, seen)
    final = _normed(x, weight("model.norm.weight"), shape)
    seen[-1, "final_norm"] = final
    head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
    seen[-1, "logits"] = final @ weight(head).T
    return seen


def _block(  # noqa: PLR0917 - what a block is made of
    shape: Architecture,
    weight: Weight,
    layer: int,
    x: Tensor,
    positions: Tensor,
    seen: dict[Place, Tensor],
) -> Tensor:
    at = f"model.layers.{layer}."

    def keep(slot: str, value: Tensor) -> Tensor:
        seen[layer, slot] = value
        return value

    def project(name: str, value: Tensor) -> Tensor:
        mapped = value @ weight(f"{at}{name}.weight").T
        biased = shape.attention_bias and name.endswith(("q_proj", "k_proj", "v_proj"))
        return mapped + weight(f"{at}{name}.bias") if biased else mapped

    normed = keep("attn_norm", _normed(x, weight(at + "input_layernorm.weight"), shape))
    q, k, v = (keep(name, project(f"self_attn.{name}_proj", normed)) for name in "qkv")
    q = keep("q_rope", _rotated(_heads(q, shape), positions, shape))
    k = keep("k_rope", _rotated(_heads(k, shape), positions, shape))
    mixed = keep("attn_out", _attended(q, k, _heads(v, shape)))
    x = keep("residual_mid", x + keep("attn_proj", project("self_attn.o_proj", mixed)))
    after = _normed(x, weight(at + "post_attention_layernorm.weight"), shape)
    normed = keep("ffn_norm", after)
    gate = keep("ffn_gate", project("mlp.gate_proj", normed))
    up = keep("ffn_up", project("mlp.up_proj", normed))
    active = keep("ffn_silu", gate / (1 + torch.exp(-gate)))
    out = keep("ffn_out", project("mlp.down_proj", keep("ffn_swigl", active * up)))
    return keep("residual_out", x + out)


def _normed(x: Tensor, weight: Tensor, shape: Architecture) -> Tensor:
    """RMSNorm (arXiv:1910.07467, equation 4)."""
    return x / ((x * x).mean(-1, keepdim=True) + float(shape.norm_eps)).sqrt() * weight


def _heads(x: Tensor, shape: Architecture) -> Tensor:
    """1 T N*D -> 1 N T D."""
    return torch.stack(x.view(*x.shape[:2], -1, shape.head_dim).unbind(-2), dim=1)


def _rotated(x: Tensor, positions: Tensor, shape: Architecture) -> Tensor:
    """RoPE (arXiv:2104.09864, equation 13) over pairs (i, i + D/2): 1 N T D -> the same."""
    half = shape.head_dim // 2
    pair = torch.arange(half, dtype=torch.float64, device=x.device)
    frequency = float(shape.rope_theta) ** (-2 * pair / shape.head_dim)
    angle = torch.outer(positions.double(), frequency)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat((turned.real, turned.imag), dim=-1)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, a query head at a time: 1 H T D over 1 K T D -> 1 T H*D."""
    T, D = q.shape[2:]
    later = torch.ones(T, T, device=q.device).triu(1).bool()
    group = q.shape[1] // k.shape[1]
    heads = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].transpose(-1, -2) / math.sqrt(D)
        share = torch.softmax(scores.masked_fill(later, -math.inf), dim=-1)
        heads.append(share @ v[:, head // group])
    return torch.cat(heads, dim=-1)
