"""The probe: what the machine offers, and properties of the program's own rules. No model."""

from __future__ import annotations

from pytest_gates.model.config import ProbeRun, Request
from pytest_gates.model.resolve import environment
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, writer: TelemetryWriter) -> None:
    """Say what the machine offers and search the declared properties.

    Facts: `python`, `torch`, `environment_state` ("built without CUDA", "built with CUDA, no
    device" or "CUDA devices visible"), `cuda_built` (CUDA version or None), `cuda_devices`
    (count), `cuda_device_names`, and `cuda_device_list` with index, name, uuid, memory_mib and
    capability of each.
    """
    assert isinstance(request.run, ProbeRun)
    machine = environment()
    for name in ("python", "torch", "cuda_built"):
        writer.fact(name, machine[name])
    writer.fact("environment_state", machine["state"])
    writer.fact("cuda_devices", len(machine["devices"]))
    writer.fact("cuda_device_names", [device["name"] for device in machine["devices"]])
    writer.fact("cuda_device_list", machine["devices"])
    if request.run.properties:
        _search_properties(request.run, writer)


def _search_properties(declared: ProbeRun, writer: TelemetryWriter) -> None:
    from pytest_gates.model import properties  # noqa: PLC0415 - hypothesis: only where declared

    for wanted in declared.properties:
        sought = properties.OF_THE_RULES[wanted.name](wanted)
        writer.property(**vars(properties.search(wanted.name, sought)))
