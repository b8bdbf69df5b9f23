"""Which runs the fused step can carry out; the others take the eager one."""

from __future__ import annotations

import torch

from pytest_gates.model.built import compute_dtype
from pytest_gates.model.config import NonFinite, PretrainRun
from pytest_gates.model.seams import Seams
from pytest_gates.model.triton_here import why_no_triton

HOPPER = (9, 0)
TRITON = (3, 6)
"""The first whose Gluon has what the products of the feed-forward layer need."""
HEAD_DIMS = (16, 32, 64, 128)
"""Tiles of other widths are beyond a matrix unit or a multiprocessor's shared memory."""


def why_eager(run: PretrainRun, device: torch.device, seams: Seams) -> str | None:
    """Why a run cannot take the fused step, or None."""
    a = run.architecture
    reasons = {
        "the run asks for it": run.execution == "eager",
        "not on CUDA": device.type != "cuda",
        "not in bf16": compute_dtype(run.dtype, device) != torch.bfloat16,
        "several processes": run.launch is not None,
        "gradient accumulation": len(run.micro_sizes) > 1,
        "the stimulus changes the loss": isinstance(run.stimulus, NonFinite),
        "every parameter's statistics": bool(run.statistics),
        "steps are taken apart": bool(run.anatomy),
        "a fault lies within the step": bool(seams.within_step),
        "tied weights": a.tied,
        "biases": a.attention_bias,
        "widths are no powers of two": any(n & (n - 1) for n in (a.hidden, a.heads, a.kv_heads)),
        "an intermediate width that is no multiple of 8": a.intermediate % 8 != 0,
        f"heads of {a.head_dim}": a.head_dim not in HEAD_DIMS,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    if found is not None:
        return found
    if (reason := why_no_triton()) is not None:
        return reason
    if _triton_version() < TRITON:
        return "triton is older than 3.6"
    # The products of the feed-forward layer are written for Hopper's own instructions.
    return None if torch.cuda.get_device_capability(device) == HOPPER else "not on Hopper"


def _triton_version() -> tuple[int, ...]:
    import triton  # noqa: PLC0415 - costs half a second

    return tuple(int(part) for part in triton.__version__.split(".")[:2])
