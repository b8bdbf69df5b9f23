"""An NVML for machines without a GPU: the functions of `pynvml` that the program uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

MIB = 2**20


class NVMLError(Exception):
    pass


@dataclass
class Device:
    name: str = "NVIDIA H200"
    uuid: str = "GPU-11111111-aaaa"
    total_mib: int = 143771
    used_mib: Callable[[], float] = lambda: 500.0
    processes: dict[int, int | None] = field(default_factory=dict)
    """MiB by PID."""
    graphics: dict[int, int | None] = field(default_factory=dict)
    utilisation: dict[int, int] = field(default_factory=dict)
    reasons: int = 0x04
    mig: bool = False


class FakeNvml:
    """`broken` names functions that raise, as they do on machines without that feature."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, *devices: Device, broken: tuple[str, ...] = ()) -> None:
        self.devices = devices
        self.broken = broken
        self.stamp = 0
        self.looks = 0
        """Samples that were begun; all before the last one are complete."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nvmlDeviceGetComputeRunningProcesses_v3":  # what a sample asks first
            self.looks += 1
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):

            def refuse(*_: Any) -> None:
                raise NVMLError(f"{name} Not Supported")

            return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.03"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:
        for device in self.devices:
            if device.uuid == uuid:
                return device
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, device: Device) -> str:
        return device.name

    def nvmlDeviceGetUUID(self, device: Device) -> bytes:
        return device.uuid.encode()

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:
        return [int(device.mig), int(device.mig)]

    def nvmlDeviceGetCudaComputeCapability(self, device: Device) -> tuple[int, int]:
        return (9, 0)

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> Any:
        return SimpleNamespace(total=device.total_mib * MIB, used=int(device.used_mib() * MIB))

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> Any:
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:
        return 623_456

    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> int:
        return 61

    def nvmlDeviceGetClockInfo(self, device: Device, clock: int) -> int:
        return 1980

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: Device) -> int:
        return device.reasons

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Device) -> list[Any]:
        return _listed(device.processes)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, device: Device) -> list[Any]:
        return _listed(device.processes)

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, device: Device) -> list[Any]:
        return _listed(device.graphics)

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, device: Device) -> list[Any]:
        return _listed(device.graphics)

    def nvmlDeviceGetProcessUtilization(self, device: Device, seen: int) -> list[Any]:
        self.stamp += 1
        return [
            SimpleNamespace(pid=pid, smUtil=util, timeStamp=self.stamp)
            for pid, util in device.utilisation.items()
        ]


def _listed(processes: dict[int, int | None]) -> list[Any]:
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
        for pid, mib in processes.items()
    ]
