"""What a training run says of its state: where it lies, how large it is, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from pytest_gates.model.built import dtype_name
from pytest_gates.model.census import devices, parameter_sha256, residency
from pytest_gates.model.clock import CpuClock
from pytest_gates.model.moments import Moments
from pytest_gates.model.step import OptimizerStep
from pytest_gates.model.writer import TelemetryWriter


def say_residency(
    writer: TelemetryWriter,
    model: nn.Module,
    optimizer: Moments,
    gradients: Iterable[Tensor],
    when: str,
) -> None:
    """Say where parameters, gradients and optimizer state lie, `before` or `after` the training."""
    found = residency(model, optimizer, gradients)
    writer.fact(f"residency_{when}", found)
    for part, name in (("parameters", "parameter"), ("gradients", "gradient"),
                       ("optimizer", "optimizer")):  # fmt: skip
        writer.fact(f"{name}_device", devices(found[part]))


def say_optimizer(writer: TelemetryWriter, step: OptimizerStep) -> None:
    """Say the settings of the update itself, whatever the run declares.

    Facts: `optimizer.beta1`, `optimizer.beta2`, `optimizer.eps`, and `optimizer.weight_decay`, the
    largest of its groups (norms have none).
    """
    for name, value in step.settings().items():
        writer.fact(f"optimizer.{name}", value)


def say_state(writer: TelemetryWriter, model: nn.Module, step: OptimizerStep) -> None:
    """Say what became of the state: residency, hash, the optimizer's own count of its updates.

    Also `host_peak_mib`, the most memory of the host that the process held at once, in MiB.
    """
    writer.fact("host_peak_mib", CpuClock().peak_mib())
    say_residency(writer, model, step.optimizer, step.gradients(), "after")
    writer.fact("param_sha256", parameter_sha256(model))
    counts = {int(state["step"].item()) for state in step.optimizer.state.values()}
    assert len(counts) <= 1, f"parameters were updated unequally often: {counts}"
    writer.fact("optimizer_steps", max(counts, default=0))
    gradients = {dtype_name(gradient.dtype) for gradient in step.gradients()}
    writer.fact("gradient_dtype", ",".join(sorted(gradients)))
