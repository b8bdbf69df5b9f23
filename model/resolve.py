"""What a device request becomes on this machine, and what the machine offers. Needs torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

from pytest_gates.model.config import Host
from pytest_gates.model.device import parse_device
from pytest_gates.model.telemetry import RunRefusedError

WITHOUT_CUDA = "built without CUDA"
NO_DEVICE = "built with CUDA, no device"
VISIBLE = "CUDA devices visible"


def prepare_environment(host: Host, *, deterministic: bool, visible: Sequence[str] = ()) -> None:
    """Set what CUDA reads at its start; to be called before CUDA is touched.

    `visible` names by UUID the GPUs that the run is pinned to. The value for
    cuBLAS is the one that torch.use_deterministic_algorithms names in its docs.
    """
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    if host.cuda == "hidden":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


def resolve(name: str, host: Host) -> torch.device:
    """Resolve a device request: `cuda[:N]` is that device or a refusal, never anything else.

    `auto` prefers CUDA and else takes the CPU; the caller says so in an event.

    Raises:
        RunRefusedError: DEVICE_UNAVAILABLE, with what was asked for and what is there.
    """
    request = parse_device(name)
    count = _device_count()
    if host.cuda == "visible" and count == 0:
        raise RunRefusedError("DEVICE_UNAVAILABLE", f"the run needs a CUDA device; {_absence()}")
    if request.kind == "cpu" or (request.kind == "auto" and count == 0):
        return torch.device("cpu")
    if count == 0:
        raise RunRefusedError("DEVICE_UNAVAILABLE", f"{name} asked for; {_absence()}")
    if request.index >= count:
        plural = "device" if count == 1 else "devices"
        raise RunRefusedError(
            "DEVICE_UNAVAILABLE", f"cuda:{request.index} asked for, {count} {plural} visible"
        )
    return _opened(torch.device("cuda", request.index))


def environment() -> dict[str, Any]:
    """The machine as torch sees it: versions, one of three states, and the visible devices.

    Keys: `python`, `torch`, `cuda_built` (CUDA version or None), `state` (`WITHOUT_CUDA`,
    `NO_DEVICE` or `VISIBLE`) and `devices`, each with index, name, uuid, memory_mib, capability.
    """
    devices = [_describe(index) for index in range(_device_count())]
    state = VISIBLE if devices else NO_DEVICE if _built() else WITHOUT_CUDA
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda_built": torch.version.cuda,
        "state": state,
        "devices": devices,
    }


def device_uuid(device: torch.device) -> str | None:
    """UUID of a CUDA device as NVML spells it (`GPU-...`); None for the CPU."""
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _built() -> bool:
    return torch.version.cuda is not None


def _device_count() -> int:
    return torch.cuda.device_count() if _built() else 0


def _absence() -> str:
    if not _built():
        return "torch is built without CUDA"
    hidden = ", CUDA is hidden from the run" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else ""
    return f"torch is built with CUDA, no device visible{hidden}"


def _opened(device: torch.device) -> torch.device:
    """The device, once a first allocation has shown that it can be used."""
    try:
        torch.zeros(1, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[0]
        raise RunRefusedError("DEVICE_UNAVAILABLE", f"{device} cannot be used: {cause}") from error
    return device


def _describe(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "index": index,
        "name": properties.name,
        "uuid": device_uuid(torch.device("cuda", index)),
        "memory_mib": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
    }
