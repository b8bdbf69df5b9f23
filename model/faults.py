"""The fault catalogue, without torch: what each sabotage does, where it comes from, where it fits.

A fault takes effect through the public seams of the trainer and the forward path (see `seams`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from pytest_gates.model.config import ForwardRun, Index, Positive, PretrainRun, ProbeRun, Settings
from pytest_gates.model.forward_faults import FORWARD_FAULTS, ForwardFault


class _Fault(Settings):
    meaning: ClassVar[str]
    """What it does to the run."""
    incident: ClassVar[str]
    """The real incident it comes from."""

    @abstractmethod
    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Why the fault cannot apply to this run, or None: a precondition over the run alone."""


class SilentCpuFallback(_Fault):
    """A CUDA request quietly becomes the CPU."""

    fault: Literal["silent_cpu_fallback"]
    meaning = "device resolution answers `cpu` where `cuda` was asked for, and says nothing"
    incident = "a trainer built without its CUDA feature trained on the CPU for days"

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Fits a run that asks for CUDA."""
        if isinstance(run, ProbeRun):
            return "a probe asks for no device"
        return None if run.device.startswith("cuda") else f"the run asks for {run.device}"


class SlowStep(_Fault):
    """Every step from `from_step` on waits `ms` milliseconds longer on the host."""

    fault: Literal["slow_step"]
    ms: Annotated[Positive, Field(le=60_000)]
    from_step: Index = 0
    meaning = "the host sleeps before it launches a step"
    incident = "a data loader blocked on a network file system once a step"

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Fits a training run that reaches `from_step`."""
        if not isinstance(run, PretrainRun):
            return f"driver {run.driver} has no steps"
        if self.from_step >= run.steps:
            return f"from_step {self.from_step} lies beyond the run's {run.steps} steps"
        return None


Fault = Annotated[SilentCpuFallback | SlowStep | ForwardFault, Field(discriminator="fault")]
"""Every fault; a new one is a class here, a seam's handler in `seams`, and a test."""

FAULTS: tuple[type[Settings], ...] = (SilentCpuFallback, SlowStep, *FORWARD_FAULTS)

fault_adapter: TypeAdapter[SilentCpuFallback | SlowStep | ForwardFault] = TypeAdapter(Fault)
