"""Which runs the fused step can carry out; the others take the eager one."""

from __future__ import annotations

import torch

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.eager import eager_as_declared, eager_on
from pytest_gates.model.seams import Seams


def why_eager(run: PretrainRun, device: torch.device, seams: Seams) -> str | None:
    """Why a run cannot take the fused step, or None."""
    if run.execution != "eager" and device.type != "cuda":
        return "not on CUDA"
    if (declared := eager_as_declared(run)) is not None:
        return declared
    if seams.within_step:
        return "a fault lies within the step"
    return eager_on(torch.cuda.get_device_capability(device))
