"""What a training run says of its state: where it lies, how large it is, and what became of it."""

from __future__ import annotations

import torch
from torch import nn

from pytest_gates.model.built import dtype_name
from pytest_gates.model.census import devices, parameter_sha256, residency
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


def say_optimizer(writer: TelemetryWriter, optimizer: torch.optim.Optimizer) -> None:
    """Say the settings that the optimizer itself has, whatever the run declares.

    Facts: `optimizer.beta1`, `optimizer.beta2`, `optimizer.eps`, and `optimizer.weight_decay`, the
    largest of its groups (norms have none).
    """
    groups = optimizer.param_groups
    (beta1, beta2), eps = groups[0]["betas"], groups[0]["eps"]
    writer.fact("optimizer.beta1", beta1)
    writer.fact("optimizer.beta2", beta2)
    writer.fact("optimizer.eps", eps)
    writer.fact("optimizer.weight_decay", max(group["weight_decay"] for group in groups))


def say_state(writer: TelemetryWriter, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Say what became of the state: residency, hash, the optimizer's own count of its updates."""
    say_residency(writer, model, optimizer, "after")
    writer.fact("param_sha256", parameter_sha256(model))
    counts = {int(state["step"].item()) for state in optimizer.state.values()}
    assert len(counts) <= 1, f"parameters were updated unequally often: {counts}"
    writer.fact("optimizer_steps", max(counts, default=0))
    gradients = {dtype_name(p.grad.dtype) for p in model.parameters() if p.grad is not None}
    writer.fact("gradient_dtype", ",".join(sorted(gradients)))
