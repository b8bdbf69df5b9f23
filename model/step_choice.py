"""Which step a run takes: the fused one where it can, else the eager one; evidence says which."""

from __future__ import annotations

import torch

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.fused.fits import why_eager
from pytest_gates.model.parallel.group import Group
from pytest_gates.model.seams import Seams
from pytest_gates.model.step import OptimizerStep, Step
from pytest_gates.model.transformer import Transformer
from pytest_gates.model.writer import TelemetryWriter


def step_for(
    run: PretrainRun,
    model: Transformer,
    device: torch.device,
    writer: TelemetryWriter,
    *,
    seams: Seams,
    group: Group,
) -> OptimizerStep:
    """Build the step, and say the facts `execution` and, if eager, `eager_because`."""
    reason = why_eager(run, device, seams)
    writer.fact("execution", "eager" if reason else "fused")
    if reason:
        writer.fact("eager_because", reason)
        return Step(run, model, device, seams, group)
    from pytest_gates.model.fused.step import FusedStep  # noqa: PLC0415 - needs Triton

    return FusedStep(run, model, device)
