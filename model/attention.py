"""What attention is made of: rotary positions, who sees whom, grouped queries, and the KV cache.

Shapes are written as in `transformer`; S is the number of keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pytest_gates.model.architecture import Architecture


def rotary_tables(length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of the positions from 0, each T D, on the device of `like`; see `rotary_at`."""
    return rotary_at(torch.arange(length, device=like.device), head_dim, theta)


def rotary_at(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (arXiv:2104.09864) for positions T or B T.

    Each is T D or B 1 T D, in float32. Pairs are (i, i + D/2), as in the checkpoints of Hugging
    Face, not (2i, 2i + 1). Sines of the first half are negative: there the partner is subtracted.
    """
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions[..., None].float() * theta ** (-pair / head_dim)
    if positions.dim() > 1:
        angle = angle.unsqueeze(1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of `x` (B H T D) by its position's angle; keeps the type of `x`.

    `cos` and `sin` as `rotary_at` makes them: the sines of the first half are negative.
    """
    partner = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos.to(x.dtype), partner, sin.to(x.dtype))


def visible(queries: Tensor, keys: Tensor) -> Tensor:
    """Whether the query at each position (T) sees the key at each position (S): T S."""
    return keys <= queries[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: B H T D queries over B K S D keys and values -> B H T D.

    Args:
        q: H query heads; head h reads the keys of head h // (H / K).
        k: rotated keys.
        v: values.
        mask: True where a query sees a key, broadcastable to B 1 T S; None: a query sees the keys
            up to its own place, by the fastest kernel there is.
    """
    grouped = q.shape[1] != k.shape[1]
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    # Plain products: no fused kernel takes a mask and groups on every device, and the step of a
    # decoder, one query over many keys, is bound by reading the keys either way.
    B, H, T, D = q.shape
    K = k.shape[1]
    shared = q.reshape(B, K, H // K * T, D)  # the heads of a group read the same keys
    scores = (shared @ k.transpose(-1, -2)).float().view(B, K, H // K, T, -1) / math.sqrt(D)
    share = scores.masked_fill(~mask.unsqueeze(-3), -torch.inf).softmax(-1).to(v.dtype)
    return (share.view(B, K, H // K * T, -1) @ v).view(B, H, T, D)


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one block, B K `length` D, written in place: a CUDA graph may hold them.

    A block sees its own alone, so that one compiled graph serves the blocks of all layers.
    """

    keys: Tensor
    values: Tensor

    def extend(
        self, positions: Tensor, k: Tensor, v: Tensor, *, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B K T D) at their positions (T).

        Returns:
            All of the cache where `whole`, to be read through a mask; else what was given.
        """
        self.keys.index_copy_(2, positions, k.to(self.keys.dtype))
        self.values.index_copy_(2, positions, v.to(self.values.dtype))
        if not whole:
            return k, v
        return self.keys.to(k.dtype), self.values.to(v.dtype)


class Cache:
    """Keys and values of positions 0 to `length` - 1, for every block."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
        batch: int = 1,
    ) -> None:
        self.length = length
        shape = (batch, architecture.kv_heads, length, architecture.head_dim)
        self.layers = tuple(
            LayerCache(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))
            for _ in range(architecture.layers)
        )
