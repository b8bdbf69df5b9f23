"""Effects of the faults in `faults.path`, through its kernels and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gates.model.faults.path import (
    DetachedGate,
    FewerTokens,
    KvHeadMissing,
    OutlierChannel,
    ShiftedPositions,
    SwappedGateUp,
    SwigluSlice,
    UnmaskedAttention,
)
from pytest_gates.model.sabotage.places import in_layer, refuse_absent
from pytest_gates.model.seams import Seams
from pytest_gates.model.transformer import Attention, FeedForward

Edit = Callable[[nn.Module], None]


def _combining(layer: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Edit:
    def edit(model: nn.Module) -> None:
        mlp = in_layer(model, layer, "mlp")
        assert isinstance(mlp, FeedForward)
        mlp.kernels = replace(mlp.kernels, combine=combine)

    return edit


def _attending(
    layer: int, attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
) -> Edit:
    def edit(model: nn.Module) -> None:
        attention = in_layer(model, layer, "self_attn")
        assert isinstance(attention, Attention)
        attention.kernels = replace(attention.kernels, attend=attend)

    return edit


def _unmasked(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def _one_head_less(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None) -> Tensor:
    last = k.shape[1] - 1
    heads = torch.arange(k.shape[1], device=k.device).clamp_max(last - 1)
    return F.scaled_dot_product_attention(
        q, k[:, heads], v[:, heads], is_causal=True, enable_gqa=True
    )


def _swapped(fault: SwappedGateUp) -> Edit:
    def edit(model: nn.Module) -> None:
        mlp = in_layer(model, fault.layer, "mlp")
        assert isinstance(mlp, FeedForward)
        mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj

    return edit


def _outlier(fault: OutlierChannel) -> Edit:
    def edit(model: nn.Module) -> None:
        gain = in_layer(model, fault.layer, "post_attention_layernorm").get_parameter("weight")
        refuse_absent("channel", fault.channel, len(gain))
        with torch.no_grad():
            gain[fault.channel] *= fault.factor

    return edit


_EDITS: dict[type, Callable[[Any], Edit]] = {
    SwigluSlice: lambda fault: _combining(fault.layer, lambda a, up: a * up.roll(1, dims=-1)),
    DetachedGate: lambda fault: _combining(fault.layer, lambda a, up: a.detach() * up),
    UnmaskedAttention: lambda fault: _attending(fault.layer, _unmasked),
    KvHeadMissing: lambda fault: _attending(fault.layer, _one_head_less),
    SwappedGateUp: _swapped,
    OutlierChannel: _outlier,
}


def _edited(fault: Any) -> Seams:
    return Seams(edit_model=_EDITS[type(fault)](fault))


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    **dict.fromkeys(_EDITS, _edited),
    FewerTokens: lambda fault: Seams(fed=lambda tokens: tokens[: fault.keep]),
    ShiftedPositions: lambda fault: Seams(
        positions=lambda count: range(fault.by, count + fault.by)
    ),
}
