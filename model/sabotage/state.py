"""Effects of the faults in `faults.state`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gates.model.faults.state import (
    Bf16Embedding,
    DoubleStep,
    MomentsLost,
    OptimizerDefaults,
    ResumeIgnored,
    SlowCheckpoint,
    VanishingGradient,
    WrongInitialisation,
)
from pytest_gates.model.seams import Seams

_MOMENTS = (".exp_avg", ".exp_avg_sq", ".step")


def _drawn_wider(fault: WrongInitialisation) -> Seams:
    @torch.no_grad()
    def edit(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith(fault.parameter):
                parameter.mul_(fault.factor)

    return Seams(edit_model=edit)


def _vanishing(fault: VanishingGradient) -> Seams:
    within = "" if fault.layer is None else f"model.layers.{fault.layer}."

    def scaled(gradient: Tensor) -> Tensor:
        return gradient * fault.factor

    def edit(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.startswith(within):
                parameter.register_hook(scaled)  # type: ignore[no-untyped-call] # torch's own

    return Seams(edit_model=edit)


def _in_bf16(_: Bf16Embedding) -> Seams:
    def edit(model: nn.Module) -> None:
        embedding = model.get_submodule("model.embed_tokens").to(torch.bfloat16)
        embedding.register_forward_hook(lambda _module, _inputs, hidden: hidden.float())

    return Seams(edit_model=edit)


def _defaults(_: OptimizerDefaults) -> Seams:
    def edit(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["betas"] = (group["betas"][0], 0.999)
            group["weight_decay"] = min(group["weight_decay"], 0.01)

    return Seams(edit_optimizer=edit)


def _twice(_: DoubleStep) -> Seams:
    def edit(optimizer: torch.optim.Optimizer) -> None:
        again = False

        def after(optimizer: torch.optim.Optimizer, *_: object) -> None:
            nonlocal again
            again = not again
            if again:
                optimizer.step()

        optimizer.register_step_post_hook(after)

    return Seams(edit_optimizer=edit)


def _without_moments(_: MomentsLost) -> Seams:
    def parameters(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: state[name] for name in state if not name.endswith(_MOMENTS)}

    return Seams(restored=parameters)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    WrongInitialisation: _drawn_wider,
    VanishingGradient: _vanishing,
    Bf16Embedding: _in_bf16,
    OptimizerDefaults: _defaults,
    DoubleStep: _twice,
    ResumeIgnored: lambda _: Seams(
        configuration=lambda declared: declared.model_copy(update={"resume": None})
    ),
    MomentsLost: _without_moments,
    SlowCheckpoint: lambda fault: Seams(before_copy=lambda: time.sleep(fault.ms / 1000)),
}
