"""The GPUs of this machine as NVML tells them, and which of them `cuda:N` means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pynvml

from pytest_gates.evidence import Gpu
from pytest_gates.model.config import CommandRun, ExecutedRun, LaunchedRun, ProbeRun
from pytest_gates.model.device import parse_device

MIB = 1024 * 1024


class NoGpuError(Exception):
    """A run means no GPU, or it cannot be told which; the message says why."""


@dataclass(frozen=True)
class Gpus:
    """What NVML tells of this machine, in NVML's order, which is that of the PCI bus."""

    nvml: Any | None
    """The module `pynvml` of nvidia-ml-py, initialised; None: there is no NVML."""
    unavailable: str | None = None
    """Why there is no NVML."""
    driver: str | None = None
    all: tuple[Gpu, ...] = ()

    def handle(self, gpu: Gpu) -> Any:
        """NVML's handle, found by UUID: an index means another GPU to CUDA than to NVML."""
        assert self.nvml is not None
        return self.nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)

    def capability(self, gpu: Gpu) -> tuple[int, int] | None:
        """Its compute capability, (9, 0) for Hopper; None where NVML does not tell."""
        assert self.nvml is not None
        try:
            major, minor = self.nvml.nvmlDeviceGetCudaComputeCapability(self.handle(gpu))
        except self.nvml.NVMLError:
            return None
        return major, minor

    def visible(self, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
        """The GPUs that a process with this environment sees, in the order of its `cuda:N`.

        `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` are read as CUDA does (CUDA C++ Programming
        Guide, "CUDA Environment Variables"): indices, or beginnings of UUIDs; the list ends at the
        first name that fits nothing.

        Raises:
            NoGpuError: the indices follow an order that only CUDA knows, or MIG is on.
        """
        names = environ.get("CUDA_VISIBLE_DEVICES")
        if names is None:
            self._require_known_order(environ)
            return self.all
        found: list[Gpu] = []
        for name in (part.strip() for part in names.split(",")):
            if name.isdecimal():
                self._require_known_order(environ)
            gpu = self._named(name)
            if gpu is None:
                break
            found.append(gpu)
        return tuple(found)

    def of(self, run: ExecutedRun | CommandRun, environ: Mapping[str, str]) -> Gpu:
        """The GPU that the run asks for; `auto` asks for the first.

        Raises:
            NoGpuError: it asks for none, or for one that is not there or cannot be told.
        """
        if isinstance(run, ProbeRun) or run.device == "cpu":
            raise NoGpuError("the run asks for no GPU")
        if run.host.cuda == "hidden":
            raise NoGpuError("CUDA is hidden from the run")
        if self.nvml is None:
            raise NoGpuError(self.unavailable or "NVML is not there")
        visible = self.visible(environ)
        index = parse_device(run.device).index
        if index >= len(visible):
            raise NoGpuError(f"{run.device} asks for cuda:{index}, {len(visible)} GPUs visible")
        return visible[index]

    def of_ranks(
        self, run: ExecutedRun | CommandRun, environ: Mapping[str, str]
    ) -> tuple[Gpu, ...]:
        """The GPUs that the ranks of a run ask for, in order; of any other run, its one.

        Raises:
            NoGpuError: it asks for none, or for one that is not there or cannot be told.
        """
        first = self.of(run, environ)
        if not isinstance(run, LaunchedRun) or run.launch is None:
            return (first,)
        return tuple(
            self.of(run.model_copy(update={"device": run.rank_device(rank)}), environ)
            for rank in range(run.launch.processes)
        )

    def pinnable(
        self, run: ExecutedRun | CommandRun, environ: Mapping[str, str]
    ) -> tuple[tuple[Gpu, ...], int]:
        """The GPUs that any of would do for a run, and how many of them it takes.

        `cuda` means any that are free, `cuda:0` that one. What the machine sees as one kind of GPU
        is what may stand for another.

        Raises:
            NoGpuError: it asks for none, or for one that is not there or cannot be told.
        """
        asked = self.of_ranks(run, environ)
        if isinstance(run, ProbeRun) or run.device != "cuda":
            return asked, len(asked)
        alike = {(gpu.name, gpu.memory_mib) for gpu in asked}
        visible = self.visible(environ)
        return tuple(g for g in visible if (g.name, g.memory_mib) in alike), len(asked)

    def _require_known_order(self, environ: Mapping[str, str]) -> None:
        if self._mig_on():
            raise NoGpuError("MIG is on: name the instance by its UUID in CUDA_VISIBLE_DEVICES")
        alike = len({(gpu.name, gpu.memory_mib) for gpu in self.all}) <= 1
        if environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and not alike:
            raise NoGpuError(
                "this machine has different GPUs, and CUDA_DEVICE_ORDER is not PCI_BUS_ID"
            )

    def _mig_on(self) -> bool:
        if self.nvml is None:
            return False
        try:
            return any(self.nvml.nvmlDeviceGetMigMode(self.handle(gpu))[0] for gpu in self.all)
        except self.nvml.NVMLError:  # a GPU that has no MIG
            return False

    def _named(self, name: str) -> Gpu | None:
        if name.isdecimal():
            return self.all[int(name)] if int(name) < len(self.all) else None
        if name.startswith("GPU-"):
            fits = [gpu for gpu in self.all if gpu.uuid is not None and gpu.uuid.startswith(name)]
            return fits[0] if len(fits) == 1 else None
        if name.startswith("MIG-") and self.nvml is not None:
            try:
                return _describe(self.nvml, self.nvml.nvmlDeviceGetHandleByUUID(name))
            except self.nvml.NVMLError:
                return None
        return None


def find_gpus(nvml: Any | None = None) -> Gpus:
    """Initialise NVML and list the GPUs.

    Args:
        nvml: an object with the functions of `pynvml`; None takes that module itself.
    """
    nvml = nvml or pynvml
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return Gpus(
            nvml,
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            all=tuple(_describe(nvml, handle) for handle in handles),
        )
    except nvml.NVMLError as error:
        return Gpus(None, unavailable=f"NVML is not there: {error}")


def _describe(nvml: Any, handle: Any) -> Gpu:
    try:
        memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).total // MIB
    except nvml.NVMLError:  # unified memory (Jetson, GB10) has no figure of its own
        memory_mib = None
    return Gpu(
        _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle)), memory_mib
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
