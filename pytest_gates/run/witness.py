"""The outside observer: what NVML says of a run's device and process while the run lasts.

It runs in a thread of the process that started the run, never in the run itself. What NVML does
not tell becomes None, and the reason is kept in `Witness.gaps`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any

from pytest_gates.evidence import Allocation, Sample, Witness
from pytest_gates.run.gpus import MIB
from pytest_gates.run.tree import Tree

SAMPLES_PER_SECOND = 20
ANCHOR_MIB = 16
"""Size of the allocation of layer L3b from whose level the others are measured.

What a device holds before a run's first allocation still moves while the CUDA context is made, so
levels are only read while the run waits. At least 10 MiB and a multiple of 2 MiB: torch's allocator
asks CUDA for exactly that much (c10/cuda/CUDACachingAllocator, kMinLargeAlloc and kRoundLarge).
"""


def told_allocations(shown_mib: Sequence[int]) -> tuple[int, ...]:
    """The sizes to tell a run, so that the witness sees differences of `shown_mib`.

    The anchor comes twice: freeing the first one also empties what the allocator had cached before.
    """
    return (ANCHOR_MIB, ANCHOR_MIB, *(ANCHOR_MIB + size for size in shown_mib)) if shown_mib else ()


_SETTLE_S = 0.3
_SETTLE_STEP_S = 0.01
_SETTLED_READINGS = 3


class Observer:
    """Watches one device, and one process on it, from `start` to `stop`."""

    def __init__(
        self, nvml: Any, handle: Any, pid: int, started_ns: int, adopts: int | None = None
    ) -> None:
        """Watch `pid`, and all that descends from it, on the device of `handle`.

        Args:
            nvml: `pynvml`, initialised, or an object with its functions.
            handle: the device, as NVML knows it.
            pid: the run's process.
            started_ns: `time.monotonic_ns()` at the start of that process.
            adopts: a process whose other children are the run's too, since it adopts its orphans.
        """
        self._tree = Tree([pid, *([] if adopts is None else [adopts])])
        self._nvml = nvml
        self._handle = handle
        self._pid = pid
        self._started_ns = started_ns
        self._samples: list[Sample] = []
        self._refused: dict[str, str] = {}
        self._allocations: list[Allocation] = []
        self._anchor: float | None = None
        self._seen_utilisation = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    def start(self) -> None:
        """Begin sampling, `SAMPLES_PER_SECOND` times a second."""
        self._thread.start()

    def stop(self) -> Witness:
        """End sampling and return everything that was seen."""
        self._stopped.set()
        self._thread.join()
        samples = tuple(self._samples)
        unlisted = f"NVML listed no process {self._pid} on the device"
        gaps = {
            field.name: self._refused.get(field.name, unlisted)
            for field in fields(Sample)
            if samples and all(getattr(sample, field.name) is None for sample in samples)
        }
        unavailable = None if samples else "the run ended before the first sample"
        return Witness(samples, tuple(self._allocations), unavailable, gaps)

    def held(self, told_mib: int) -> None:
        """The run holds an allocation of `told_mib` and waits: read the device's memory level.

        One of `ANCHOR_MIB` sets the level from which those after it are measured; each of them is
        told that much more than what it shows.
        """
        level = self._settled_mib()
        if told_mib == ANCHOR_MIB:
            self._anchor = level
            return
        seen = None if level is None or self._anchor is None else level - self._anchor
        self._allocations.append(Allocation(told_mib - ANCHOR_MIB, seen))

    def _settled_mib(self) -> float | None:
        """Device memory in use once it has stopped moving, or as it is after `_SETTLE_S`."""
        until = time.monotonic() + _SETTLE_S
        readings: list[float | None] = []
        while True:
            late = time.monotonic() >= until  # before the reading, which then is of a later time
            readings.append(self._device_used_mib())
            last = readings[-_SETTLED_READINGS:]
            if late or (len(last) == _SETTLED_READINGS and len(set(last)) == 1):
                return readings[-1]
            time.sleep(_SETTLE_STEP_S)

    def _watch(self) -> None:
        period_ns = 1_000_000_000 // SAMPLES_PER_SECOND
        due_ns = time.monotonic_ns()
        while not self._stopped.is_set():
            self._samples.append(self._sample())
            # A sample that came late is not made up for: the next one keeps to the grid.
            late = (time.monotonic_ns() - due_ns) // period_ns
            due_ns += (late + 1) * period_ns
            self._stopped.wait((due_ns - time.monotonic_ns()) / 1e9)

    def _sample(self) -> Sample:
        nvml, handle, ask = self._nvml, self._handle, self._ask
        at_ms = (time.monotonic_ns() - self._started_ns) / 1e6
        processes = self._processes()
        rates = ask("util_pct", nvml.nvmlDeviceGetUtilizationRates, handle)
        watts = ask("power_w", nvml.nvmlDeviceGetPowerUsage, handle)
        celsius = ask(
            "temperature_c", nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
        )
        clock = ask("sm_clock_mhz", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        return Sample(
            at_ms=at_ms,
            pid=self._pid if self._own(processes) else None,
            used_mib=self._used_mib(processes),
            device_used_mib=self._device_used_mib(),
            sm_util_pct=self._process_utilisation(),
            util_pct=None if rates is None else float(rates.gpu),
            sm_clock_mhz=None if clock is None else float(clock),
            power_w=None if watts is None else watts / 1000,
            temperature_c=None if celsius is None else float(celsius),
            reasons=ask("reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
            foreign_pids=self._foreign(processes),
        )

    def _ask(self, field: str, function: Callable[..., Any], *arguments: Any) -> Any | None:
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            self._refused.setdefault(field, str(error))
            return None

    def _device_used_mib(self) -> float | None:
        memory = self._ask("device_used_mib", self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return None if memory is None else memory.used / MIB

    def _processes(self) -> dict[int, int | None] | None:
        """Bytes a process holds, by PID; None: NVML lists no processes at all."""
        nvml = self._nvml
        lists = (
            self._list(nvml.nvmlDeviceGetComputeRunningProcesses_v3,
                       nvml.nvmlDeviceGetComputeRunningProcesses_v2),
            self._list(nvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
                       nvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
        )  # fmt: skip
        if lists == (None, None):
            return None
        found: dict[int, int | None] = {}
        for process in (process for listed in lists for process in listed or ()):
            held = (found.get(process.pid), process.usedGpuMemory)
            # One that computes and draws is in both lists, each with the whole of its memory.
            found[process.pid] = max((size for size in held if size is not None), default=None)
        return found

    def _list(self, *functions: Callable[..., Any]) -> Iterable[Any] | None:
        # Old drivers know only the second version of the call; the name without a version raises
        # an error of another family there.
        for function in functions:
            listed: Iterable[Any] | None = self._ask("processes", function, self._handle)
            if listed is not None:
                return listed
        return None

    def _used_mib(self, processes: dict[int, int | None] | None) -> float | None:
        own = self._own(processes)
        told = [used for used in own.values() if used is not None]
        if told:
            return sum(told) / MIB
        if processes is None:
            self._refused.setdefault("used_mib", self._refused["processes"])
        elif own:
            self._refused.setdefault("used_mib", "NVML does not tell the memory of a process here")
        return None

    def _foreign(self, processes: dict[int, int | None] | None) -> int | None:
        """Other processes on the device; None where the run itself might be among them."""
        if processes is None:
            self._refused.setdefault("foreign_pids", self._refused["processes"])
            return None
        own = self._own(processes)
        if not own and not all(map(_exists, processes)):
            self._refused.setdefault(
                "foreign_pids", "NVML counts processes in another PID namespace (a container)"
            )
            return None
        return len(processes.keys() - own.keys())

    def _own(self, processes: dict[int, int | None] | None) -> dict[int, int | None]:
        """Of the processes on the device those that are the run: it and what descends from it."""
        return {pid: used for pid, used in (processes or {}).items() if self._tree.holds(pid)}

    def _process_utilisation(self) -> float | None:
        """SM utilisation of the process, or None: NVML keeps about six samples a second."""
        samples = self._ask(
            "sm_util_pct",
            self._nvml.nvmlDeviceGetProcessUtilization,
            self._handle,
            self._seen_utilisation,
        )
        newest: dict[int, float] = {}
        seen = self._seen_utilisation
        for sample in samples or ():
            if sample.timeStamp > seen and self._tree.holds(sample.pid):
                newest[sample.pid] = float(sample.smUtil)
                self._seen_utilisation = max(self._seen_utilisation, sample.timeStamp)
        return sum(newest.values()) if newest else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
