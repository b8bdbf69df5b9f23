"""The public seams of a run: the places where a fault, and nothing else, can reach in.

Seams are chosen before anything is built. A clean run goes through the same calls with the
neutral ones, so that a sabotaged run and its clean control differ in the fault alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pytest_gates.model.config import Host
from pytest_gates.model.faults import SilentCpuFallback, SlowStep, fault_adapter
from pytest_gates.model.forward_edits import EDITS
from pytest_gates.model.forward_faults import FewerTokens
from pytest_gates.model.resolve import resolve


def _nothing(step: int) -> None:
    """The neutral `before_step`."""


def _untouched(_model: nn.Module) -> None:
    """The neutral `edit_model`."""


@dataclass(frozen=True)
class Seams:
    """What a run asks at the places a fault may take over; the defaults are the clean run."""

    resolve_device: Callable[[str, Host], torch.device] = resolve
    """What a device request becomes."""
    edit_model: Callable[[nn.Module], None] = _untouched
    """Called once with the model as built, before anything is said of it."""
    fed: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda tokens: tokens
    """The tokens a forward path is fed, given those of the prompt."""
    before_step: Callable[[int], None] = _nothing
    """Called on the host before a step is launched."""


def seams_for(fault: Mapping[str, object] | None) -> Seams:
    """The seams of a run with this fault; the neutral ones without.

    Raises:
        pydantic.ValidationError: the fault is not in the catalogue.
    """
    if fault is None:
        return Seams()
    match fault_adapter.validate_python(fault):
        case FewerTokens() as fewer:
            return Seams(fed=lambda tokens: tokens[: fewer.keep])
        case SilentCpuFallback():
            return Seams(resolve_device=_fall_back)
        case SlowStep() as slow:
            return Seams(before_step=_slower(slow))
        case of_the_path:
            return Seams(edit_model=EDITS[type(of_the_path)](of_the_path))


def _fall_back(name: str, host: Host) -> torch.device:
    return torch.device("cpu") if name.startswith("cuda") else resolve(name, host)


def _slower(fault: SlowStep) -> Callable[[int], None]:
    def wait(step: int) -> None:
        if step >= fault.from_step:
            time.sleep(fault.ms / 1000)

    return wait
