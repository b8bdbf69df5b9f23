"""Effects of the faults in `faults.device`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gates.model.config import Host
from pytest_gates.model.faults.device import (
    ContextOnly,
    DeviceRefusalOff,
    OptimizerOnCpu,
    SilentCpuFallback,
    WeightsOffloaded,
)
from pytest_gates.model.resolve import resolve
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import RunRefusedError

CPU = torch.device("cpu")


def _fall_back(_: SilentCpuFallback) -> Seams:
    return Seams(
        resolve_device=lambda name, host: CPU if name.startswith("cuda") else resolve(name, host)
    )


def _unrefused(_: DeviceRefusalOff) -> Seams:
    def resolved(name: str, host: Host) -> torch.device:
        try:
            return resolve(name, host)
        except RunRefusedError:
            return CPU

    return Seams(resolve_device=resolved)


def _context_only(_: ContextOnly) -> Seams:
    held: list[Tensor] = []

    def elsewhere(device: torch.device) -> torch.device:
        held.append(torch.zeros(1, device=device))
        return CPU

    return Seams(compute_device=elsewhere)


class Commuter:
    """Moves tensors to the host after each step and back before the next."""

    def __init__(self, from_step: int) -> None:
        self._from_step = from_step
        self._away: list[tuple[Tensor, torch.device]] = []

    def leave(self, step: int, tensors: list[Tensor]) -> None:
        """Move to the host, once the step is over."""
        if step >= self._from_step:
            self._away = [(tensor, tensor.device) for tensor in tensors]
            for tensor in tensors:
                tensor.data = tensor.data.to(CPU)

    def return_(self, _: int) -> None:
        """Move back to where each tensor came from."""
        for tensor, device in self._away:
            tensor.data = tensor.data.to(device)
        self._away = []


def _offloaded(fault: WeightsOffloaded) -> Seams:
    commuter = Commuter(fault.from_step)
    models: list[nn.Module] = []
    return Seams(
        edit_model=models.append,
        before_step=commuter.return_,
        after_step=lambda step: commuter.leave(step, list(models[0].parameters())),
    )


def _optimizer_away(_: OptimizerOnCpu) -> Seams:
    commuter = Commuter(0)
    optimizers: list[torch.optim.Optimizer] = []

    def state() -> list[Tensor]:
        values = (value for one in optimizers[0].state.values() for value in one.values())
        return [value for value in values if isinstance(value, Tensor)]

    return Seams(
        edit_optimizer=optimizers.append,
        before_step=commuter.return_,
        after_step=lambda step: commuter.leave(step, state()),
    )


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    SilentCpuFallback: _fall_back,
    DeviceRefusalOff: _unrefused,
    ContextOnly: _context_only,
    WeightsOffloaded: _offloaded,
    OptimizerOnCpu: _optimizer_away,
}
