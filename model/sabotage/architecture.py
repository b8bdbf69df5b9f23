"""Effects of the faults in `faults.architecture`, as hooks on the model's public modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_gates.model.attention import rotary_at, rotary_tables
from pytest_gates.model.faults.architecture import (
    BatchLeak,
    CausalLeak,
    ExplodingActivation,
    FeedForwardShift,
    NanActivation,
    NonlinearRope,
    StrayParameter,
    TiedWeights,
    UntiedWeights,
    WrongRopeBase,
)
from pytest_gates.model.sabotage.places import in_layer
from pytest_gates.model.seams import Seams
from pytest_gates.model.transformer import Decoder, Transformer


def _leaking(fault: CausalLeak) -> Seams:
    def leak(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]  # B T C
        return (x + fault.share * F.pad(x[:, 1:], (0, 0, 0, 1)), *inputs[1:])

    def edit(model: nn.Module) -> None:
        model.get_submodule("model.layers.0.self_attn").register_forward_pre_hook(leak)

    return Seams(edit_model=edit)


def _mixed(fault: BatchLeak) -> Seams:
    def mix(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]  # B T C
        return (x + fault.share * x.mean(dim=0, keepdim=True), *inputs[1:])

    def edit(model: nn.Module) -> None:
        model.get_submodule("model.layers.0.self_attn").register_forward_pre_hook(mix)

    return Seams(edit_model=edit)


def _nonlinear(fault: NonlinearRope) -> Seams:
    def tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
        return rotary_at(positions.float() ** fault.power, head_dim, theta)

    def rotate_otherwise(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, span, *rest = inputs
        made = tables(span.positions, span.tables[0].shape[-1], 1e4)
        return (x, replace(span, tables=made), *rest)

    def edit(model: nn.Module) -> None:
        for block in model.get_submodule("model.layers").children():
            block.get_submodule("self_attn").register_forward_pre_hook(rotate_otherwise)

    return Seams(
        edit_model=edit,
        rotary=lambda length, head_dim, theta, like: tables(
            torch.arange(length, device=like.device), head_dim, theta
        ),
    )


def _rebased(fault: WrongRopeBase) -> Seams:
    theta = float(fault.theta)

    def edit(model: nn.Module) -> None:
        decoder = model.get_submodule("model")
        assert isinstance(decoder, Decoder)
        decoder.rope_theta = theta

    return Seams(
        edit_model=edit,
        rotary=lambda length, head_dim, _theta, like: rotary_tables(length, head_dim, theta, like),
    )


def _shifted(_: FeedForwardShift) -> Seams:
    def shift(_module: nn.Module, _inputs: object, up: Tensor) -> Tensor:
        return up.roll(-1, dims=-1)

    def edit(model: nn.Module) -> None:
        for block in model.get_submodule("model.layers").children():
            block.get_submodule("mlp.up_proj").register_forward_hook(shift)

    return Seams(edit_model=edit)


def _untied(_: UntiedWeights) -> Seams:
    def edit(model: nn.Module) -> None:
        assert isinstance(model, Transformer)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())

    return Seams(edit_model=edit)


def _tied(_: TiedWeights) -> Seams:
    def edit(model: nn.Module) -> None:
        assert isinstance(model, Transformer)
        model.lm_head.weight = model.model.embed_tokens.weight

    return Seams(edit_model=edit)


def _stray(fault: StrayParameter) -> Seams:
    def edit(model: nn.Module) -> None:
        like = next(model.parameters())
        stray = nn.Parameter(torch.zeros(fault.count, dtype=like.dtype, device=like.device))
        model.register_parameter("stray", stray)

    return Seams(edit_model=edit)


def _scaled(layer: int, factor: float) -> Seams:
    def scale(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return torch.mul(output, factor)

    def edit(model: nn.Module) -> None:
        in_layer(model, layer, "mlp.down_proj").register_forward_hook(scale)

    return Seams(edit_model=edit)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    CausalLeak: _leaking,
    WrongRopeBase: _rebased,
    FeedForwardShift: _shifted,
    NonlinearRope: _nonlinear,
    BatchLeak: _mixed,
    UntiedWeights: _untied,
    TiedWeights: _tied,
    StrayParameter: _stray,
    NanActivation: lambda fault: _scaled(fault.layer, math.nan),
    ExplodingActivation: lambda fault: _scaled(fault.layer, fault.factor),
}
