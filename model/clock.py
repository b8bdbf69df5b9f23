"""What a step cost, without making the host wait: time, memory and utilisation of the device."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pynvml
import torch

from pytest_gates.model.resolve import device_uuid

_MIB = 2**20

Mark = TypeVar("Mark")


class Clock(Protocol, Generic[Mark]):
    """Marks points of the device's time line and measures between them once they are reached."""

    def mark(self) -> Mark:
        """Mark the point that the device reaches after all work launched so far."""

    def wait(self, mark: Mark) -> None:
        """Wait until the device has reached the mark."""

    def wall_ms(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two marks that were reached."""

    def gpu_ms(self, start: Mark, end: Mark) -> float | None:
        """The same as time of a GPU; None without one."""

    def memory(self) -> dict[str, float]:
        """Memory now, as metrics."""

    def peak_mib(self) -> float:
        """The most memory that was held at once, in MiB."""

    def utilisation_pct(self) -> float | None:
        """Utilisation of the GPU as NVML gives it; None without one."""


class CpuClock:
    """The host's own clock: work on the CPU is done when its call returns."""

    def mark(self) -> float:
        """Milliseconds of a monotonic clock."""
        return time.perf_counter() * 1000

    def wait(self, mark: float) -> None:
        """Nothing is ever outstanding on the CPU."""

    def wall_ms(self, start: float, end: float) -> float:
        """Milliseconds between two marks."""
        return end - start

    def gpu_ms(self, start: float, end: float) -> None:
        """There is no GPU."""

    def memory(self) -> dict[str, float]:
        """Resident memory of this process; its peak where the system does not tell."""
        statm = Path("/proc/self/statm")
        if not statm.exists():
            return {"memory_mib": self.peak_mib()}
        pages = int(statm.read_text().split()[1])
        return {"memory_mib": pages * resource.getpagesize() / _MIB}

    def peak_mib(self) -> float:
        """Peak resident memory; getrusage(2) counts KiB on Linux and bytes on macOS."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / _MIB if sys.platform == "darwin" else peak / 1024

    def utilisation_pct(self) -> None:
        """There is no GPU."""


class CudaClock:
    """CUDA events on the current stream, the caching allocator, and NVML by the device's UUID."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(device_uuid(device))
        except pynvml.NVMLError:
            self._handle = None

    def mark(self) -> torch.cuda.Event:
        """An event behind all work launched so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch's own
        event.record()
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Wait for one event, not for the device."""
        mark.synchronize()

    def wall_ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Milliseconds between two events, at a resolution of about 0.5 us."""
        return float(start.elapsed_time(end))

    def gpu_ms(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """The same as `wall_ms`: the events differ."""
        return float(start.elapsed_time(end))

    def memory(self) -> dict[str, float]:
        """What the caching allocator holds for tensors, and what it has reserved."""
        stats = torch.cuda.memory_stats(self._device)
        return {
            "memory_mib": stats["allocated_bytes.all.current"] / _MIB,
            "reserved_mib": stats["reserved_bytes.all.current"] / _MIB,
        }

    def peak_mib(self) -> float:
        """Peak of the tensors' bytes."""
        return torch.cuda.max_memory_allocated(self._device) / _MIB

    def utilisation_pct(self) -> float | None:
        """Share of NVML's last sample period in which a kernel ran; None where NVML is mute."""
        if self._handle is None:
            return None
        try:
            return float(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except pynvml.NVMLError:
            return None


def clock_for(device: torch.device) -> CpuClock | CudaClock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
