"""The machine a run is made on: what evidence says of it, and which runs it can execute."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_gates.evidence import Gpu, HostInfo
from pytest_gates.model.config import CommandRun, LaunchedRun, RecordedRun, Run, declared_launch
from pytest_gates.model.device import parse_device
from pytest_gates.model.launch import Launch
from pytest_gates.run.gpus import Gpus, NoGpuError

HIGHEST_CLOCK_HZ = 6.2e9
"""Taken where the machine does not tell its highest clock, as virtual ones do not: the highest that
a CPU has been sold with (Intel Core i9-14900KS, Intel's product specifications)."""

_FLOPS_A_CYCLE: tuple[tuple[str, int], ...] = (
    # TDPBF16PS: 16 x 16 x 32 multiply-adds every 16 cycles (Intel 64 and IA-32 Architectures
    # Optimization Reference Manual, chapter on AMX).
    ("amx_bf16", 1024),
    # VDPBF16PS or VFMADDPH: 32 multiply-adds a register, on two ports (ibid., AVX-512).
    ("avx512_fp16", 128),
    ("avx512_bf16", 128),
    # VFMADDPS: 16 multiply-adds a register, on two ports.
    ("avx512f", 64),
    # VFMADDPS: 8 multiply-adds a register, on two ports (ibid., Haswell).
    ("fma", 32),
    # MULPS and ADDPS: 4 lanes each, on a port each.
    ("sse2", 8),
    # BFMMLA: 16 multiply-adds a register, on four pipes (Arm Neoverse V1 Optimization Guide).
    ("bf16", 128),
    # FMLA: 4 multiply-adds a register, on four pipes (ibid.).
    ("asimd", 32),
)
"""Most floating-point operations a core does in a cycle, in any format, by CPU flag, best first."""


def host_info(gpu: Gpu | None, driver: str | None, torch: str | None, cuda: str | None) -> HostInfo:
    """Describe this machine, without its name, its users or its folders.

    Args:
        gpu: the GPU that the run asks for.
        driver: version of the NVIDIA driver.
        torch: version of torch in the run's process.
        cuda: version of CUDA that torch was built with.
    """
    system = platform.uname()
    release = re.match(r"[0-9.]*[0-9]|", system.release)
    assert release is not None
    cores, flops = cpu_ceiling(_read(Path("/proc/cpuinfo")), highest_clock_hz())
    return HostInfo(
        gpu=gpu,
        driver=driver,
        torch=torch,
        cuda=cuda,
        python=platform.python_version(),
        platform="-".join(filter(None, (system.system, release[0], system.machine))),
        cpu_cores=cores or os.cpu_count(),
        cpu_flops=flops,
    )


def cpu_ceiling(cpuinfo: str, clock_hz: float) -> tuple[int | None, float | None]:
    """Physical cores, and the floating-point operations a second that they cannot exceed.

    Cores times clock times operations a cycle (`_FLOPS_A_CYCLE`), in the format that is fastest.

    Args:
        cpuinfo: text of `/proc/cpuinfo`; empty where there is none.
        clock_hz: highest clock of a core.

    Returns:
        None for what cannot be told: another kind of CPU, or none described.
    """
    described = [_fields(block) for block in cpuinfo.split("\n\n") if block.strip()]
    processors = [fields for fields in described if "processor" in fields]
    if not processors:
        return None, None
    # Hyper-threads share their core's units; where no ids are told each processor is a core.
    cores = len(
        {
            (fields.get("physical id", "0"), fields.get("core id", fields["processor"]))
            for fields in processors
        }
    )
    flags = set((processors[0].get("flags") or processors[0].get("Features") or "").split())
    a_cycle = next((flops for flag, flops in _FLOPS_A_CYCLE if flag in flags), None)
    return cores, None if a_cycle is None else cores * clock_hz * a_cycle


def highest_clock_hz() -> float:
    """Highest clock of any core, as the kernel tells it, else `HIGHEST_CLOCK_HZ`."""
    cpus = Path("/sys/devices/system/cpu")
    told = (_read(file) for file in cpus.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq"))
    return max((int(text) * 1e3 for text in told if text.strip()), default=HIGHEST_CLOCK_HZ)


def capability(
    run: Run,
    gpus: Gpus,
    environ: Mapping[str, str],
    devices_of_torch: Callable[[], tuple[str, int]],
) -> str | None:
    """Why this machine cannot execute the run, or None.

    Args:
        run: any declared run; a recorded one is read and can be so anywhere.
        gpus: what NVML tells.
        environ: environment of the run's process.
        devices_of_torch: asks torch, in another process, for its state in words and the number of
            CUDA devices it sees; called only where NVML has the GPU.
    """
    needed = _devices_needed(run)
    launch = declared_launch(run)
    short = None if launch is None else _ranks_without(launch, needed, len(gpus.all))
    if short is not None or not needed:
        return short
    if not gpus.all:
        return "no NVIDIA GPU on this machine" + (f" ({gpus.unavailable})" * bool(gpus.unavailable))
    try:
        visible = len(gpus.visible(environ))
    except NoGpuError:  # torch will tell
        visible = needed
    if visible < needed:
        return _too_few(needed, visible, "CUDA_VISIBLE_DEVICES shows")
    if isinstance(run, CommandRun):  # what it computes with is its own matter
        return None
    state, seen = devices_of_torch()
    return None if seen >= needed else _too_few(needed, seen, f"torch ({state}) sees")


def _ranks_without(launch: Launch, needed: int, there: int) -> str | None:
    """Why the ranks of a launch find no nodes or GPUs here, or None."""
    if launch.nodes > 1:
        gpu_count = f" with {launch.processes} GPUs each" if needed else ""
        text = f"the run needs {launch.nodes} nodes{gpu_count}, this session starts it on one"
        return f"{text}: {_missing(launch.ranks, there)}" if needed else text
    if there < needed:
        return f"{_missing(needed, there)}: the run needs {needed}, here are {there}"
    return None


def _missing(needed: int, there: int) -> str:
    missing = needed - there
    return f"{missing} GPU{'s' * (missing != 1)} missing"


def _devices_needed(run: Run) -> int:
    """How many CUDA devices must be visible; 0: the run can be executed anywhere."""
    if isinstance(run, RecordedRun) or run.host.cuda == "hidden":
        return 0
    if isinstance(run, LaunchedRun) and run.launch is not None and run.device.startswith("cuda"):
        return _named_devices(run.device) + run.launch.processes - 1
    return max(int(run.host.cuda == "visible"), _named_devices(getattr(run, "device", "cpu")))


def _named_devices(device: str) -> int:
    return parse_device(device).index + 1 if device.startswith("cuda") else 0


def _too_few(needed: int, seen: int, who: str) -> str:
    return f"cuda:{needed - 1} is not there: {who} {seen} CUDA device{'s' * (seen != 1)}"


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
