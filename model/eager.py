"""Which training runs take the eager step: by what they declare, and by what the machine lacks.

Without torch: it is asked also by who imports beforehand what only the eager step needs.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from pytest_gates.model.config import NonFinite, PretrainRun
from pytest_gates.model.triton_here import why_no_triton

HOPPER = (9, 0)
"""The compute capability whose instructions the products of the feed-forward layer are in."""
TRITON = (3, 6)
"""The first whose Gluon has what those products need."""
HEAD_DIMS = (16, 32, 64, 128)
"""Tiles of other widths are beyond a matrix unit or a multiprocessor's shared memory."""


def eager_as_declared(run: PretrainRun) -> str | None:
    """Why a run takes the eager step on every machine, or None."""
    a = run.architecture
    reasons = {
        "the run asks for it": run.execution == "eager",
        "not in bf16": run.dtype == "fp32",
        "several processes": run.launch is not None,
        "gradient accumulation": len(run.micro_sizes) > 1,
        "the stimulus changes the loss": isinstance(run.stimulus, NonFinite),
        "every parameter's statistics": bool(run.statistics),
        "steps are taken apart": bool(run.anatomy),
        "tied weights": a.tied,
        "biases": a.attention_bias,
        "widths are no powers of two": any(n & (n - 1) for n in (a.hidden, a.heads, a.kv_heads)),
        "an intermediate width that is no multiple of 8": a.intermediate % 8 != 0,
        f"heads of {a.head_dim}": a.head_dim not in HEAD_DIMS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def eager_on(capability: tuple[int, int] | None) -> str | None:
    """Why every run takes the eager step on a GPU of this compute capability, here, or None."""
    if capability != HOPPER:
        return "not on Hopper"
    if (reason := why_no_triton()) is not None:
        return reason
    return "triton is older than 3.6" if _triton_version() < TRITON else None


@lru_cache(1)
def _triton_version() -> tuple[int, ...]:
    try:
        known = version("triton")
    except PackageNotFoundError:  # torch's nightly builds bring it under another name
        known = importlib.import_module("triton").__version__
    return tuple(int(part) for part in known.split(".")[:2])
