"""What a training run says of its state: where it lies, how large it is, and what became of it."""

from __future__ import annotations

import torch
from torch import nn

from pytest_gates.model.built import dtype_name
from pytest_gates.model.census import devices, parameter_sha256, residency
from pytest_gates.model.clock import CpuClock
from pytest_gates.model.writer import TelemetryWriter


def say_residency(
    writer: TelemetryWriter, model: nn.Module, optimizer: torch.optim.Optimizer, when: str
) -> None:
    """Say where parameters, gradients and optimizer state lie, `before` or `after` the training."""
    found = residency(model, optimizer)
    writer.fact(f"residency_{when}", found)
    for part, name in (("parameters", "parameter"), ("gradients", "gradient"),
                       ("optimizer", "optimizer")):  # fmt: skip
        writer.fact(f"{name}_device", devices(found[part]))


def say_state(writer: TelemetryWriter, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Say what became of the state: residency, hash, the optimizer's own count of its updates.

    Also `host_peak_mib`, the most memory of the host that the process held at once, in MiB.
    """
    writer.fact("host_peak_mib", CpuClock().peak_mib())
    say_residency(writer, model, optimizer, "after")
    writer.fact("param_sha256", parameter_sha256(model))
    counts = {int(state["step"].item()) for state in optimizer.state.values()}
    assert len(counts) <= 1, f"parameters were updated unequally often: {counts}"
    writer.fact("optimizer_steps", max(counts, default=0))
    gradients = {dtype_name(p.grad.dtype) for p in model.parameters() if p.grad is not None}
    writer.fact("gradient_dtype", ",".join(sorted(gradients)))
