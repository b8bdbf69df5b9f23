"""Effects of the faults in `faults.speed`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from pytest_gates.model.faults.speed import (
    FusedAttentionOff,
    HiddenWork,
    MemoryLeak,
    SlowSide,
    SlowStep,
    SlowTail,
    SyncPerLayer,
)
from pytest_gates.model.seams import Seams

_MIB = 2**20


def _slower(fault: SlowStep) -> Seams:
    def wait(step: int) -> None:
        if step >= fault.from_step:
            time.sleep(fault.ms / 1000)

    return Seams(before_step=wait)


def _slow_tail(fault: SlowTail) -> Seams:
    def wait(step: int) -> None:
        if step % fault.every == fault.every - 1:
            time.sleep(fault.ms / 1000)

    return Seams(before_step=wait)


def _waiting(fault: SlowSide) -> Seams:
    # It is injected into the runs of that side alone: no other one fits.
    return Seams(before_step=lambda _step: time.sleep(fault.ms / 1000))


def _hidden(fault: HiddenWork) -> Seams:
    def compute(_step: int, work: Callable[[], Tensor]) -> Tensor:
        said = work()
        time.sleep(fault.ms / 1000)
        return said

    return Seams(compute=compute)


def _synchronised(_: SyncPerLayer) -> Seams:
    def wait(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.flatten()[0].item()

    def edit(model: nn.Module) -> None:
        for block in model.get_submodule("model.layers").children():
            block.register_forward_hook(wait)

    return Seams(edit_model=edit)


def _plain_attention(_: FusedAttentionOff) -> Seams:
    return Seams(attention=lambda _chosen: SDPBackend.MATH)


def _leaking(fault: MemoryLeak) -> Seams:
    kept: list[Tensor] = []
    models: list[nn.Module] = []

    def keep(_: int) -> None:
        device = next(models[0].parameters()).device
        kept.append(torch.ones(fault.mib * _MIB, dtype=torch.uint8, device=device))

    return Seams(edit_model=models.append, before_step=keep)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    SlowStep: _slower,
    SlowTail: _slow_tail,
    SlowSide: _waiting,
    HiddenWork: _hidden,
    SyncPerLayer: _synchronised,
    FusedAttentionOff: _plain_attention,
    MemoryLeak: _leaking,
}
