"""Faults of the device: asked for the GPU, computed elsewhere."""

from __future__ import annotations

from typing import Literal

from pytest_gates.model.config import Index, ProbeRun
from pytest_gates.model.faults.base import (
    BaseFault,
    Injectable,
    beyond,
    off_cuda,
    refused,
    too_large,
)


class SilentCpuFallback(BaseFault):
    """A CUDA request quietly becomes the CPU."""

    fault: Literal["silent_cpu_fallback"]
    captured = True
    meaning = "device resolution answers `cpu` where `cuda` was asked for, and says nothing"
    incident = "a trainer built without its CUDA feature trained on the CPU for days"
    checks = ("residency", "exit_status", "event")
    fits = "runs that ask for CUDA"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run that asks for CUDA."""
        if isinstance(run, ProbeRun):
            return "a probe asks for no device"
        return None if run.device.startswith("cuda") else f"the run asks for {run.device}"

    def unseen(self, run: Injectable) -> str | None:
        """See `too_large`."""
        return too_large(run)


class DeviceRefusalOff(BaseFault):
    """The guard that refuses a device which is not there is switched off."""

    fault: Literal["device_refusal_off"]
    captured = True
    meaning = "a request that must be refused takes the CPU instead of ending DEVICE_UNAVAILABLE"
    incident = "`device = cuda if available else cpu`, copied from every tutorial"
    checks = ("exit_status", "event")
    fits = "runs that ask for CUDA while it is hidden from them"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run that is refused its device."""
        return None if refused(run) else "the run's device is not hidden from it"

    def unseen(self, run: Injectable) -> str | None:
        """See `too_large`."""
        return too_large(run)


class ContextOnly(BaseFault):
    """A CUDA context and one small tensor on the device; the model trains on the CPU."""

    fault: Literal["context_only"]
    captured = True
    meaning = "the process opens a CUDA context and says `cuda`, the model stays on the CPU"
    incident = "`nvidia-smi` showed the process with 300 MiB, and that was taken for residency"
    checks = ("residency",)
    fits = "training runs on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run on CUDA."""
        return off_cuda(run)

    def unseen(self, run: Injectable) -> str | None:
        """See `too_large`."""
        return too_large(run)


class WeightsOffloaded(BaseFault):
    """From `from_step` on the weights leave the device after each step."""

    fault: Literal["weights_offloaded"]
    from_step: Index = 1
    meaning = "parameters go to the host after each step and come back for the next"
    incident = "an offloading flag left on after a run on a smaller GPU"
    checks = ("residency", "budget")
    fits = "training runs on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run on CUDA that reaches `from_step`."""
        return off_cuda(run) or beyond(run, "from_step", self.from_step)


class OptimizerOnCpu(BaseFault):
    """The optimizer's state lives on the host between steps."""

    fault: Literal["optimizer_on_cpu"]
    meaning = "the moments of the optimizer are kept on the host between steps"
    incident = "optimizer state restored from a checkpoint with map_location cpu"
    checks = ("residency", "budget")
    fits = "training runs on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run on CUDA."""
        return off_cuda(run)
