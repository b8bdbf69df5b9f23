"""The probe: what the machine offers, and properties of the program's own rules. No model."""

from __future__ import annotations

from pytest_gates.model.config import ProbeRun, Request
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, writer: TelemetryWriter, seams: Seams = CLEAN) -> None:
    """Say what the machine offers and search the declared properties.

    Facts: `python`, `torch`, `environment_state` ("built without CUDA", "built with CUDA, no
    device" or "CUDA devices visible"), `cuda_built` (CUDA version or None), `cuda_devices`
    (count), `cuda_device_names`, and `cuda_device_list` with index, name, uuid, memory_mib and
    capability of each.
    """
    assert isinstance(request.run, ProbeRun)
    machine = seams.environment()
    for name in ("python", "torch", "cuda_built"):
        writer.fact(name, machine[name])
    writer.fact("environment_state", machine["state"])
    writer.fact("cuda_devices", len(machine["devices"]))
    writer.fact("cuda_device_names", [device["name"] for device in machine["devices"]])
    writer.fact("cuda_device_list", machine["devices"])
    if request.run.properties:
        _search_properties(request, writer, seams)


def _search_properties(request: Request, writer: TelemetryWriter, seams: Seams) -> None:
    # hypothesis is imported only where a property is declared
    from pytest_gates.model.properties.of_rules import OF_THE_RULES, Rules  # noqa: PLC0415
    from pytest_gates.model.properties.search import search  # noqa: PLC0415

    assert isinstance(request.run, ProbeRun)
    rules = Rules(seams.parse_device, seams.learning_rate)
    for wanted in request.run.properties:
        sought = OF_THE_RULES[wanted.name](wanted, rules)
        writer.property(**vars(search(wanted.name, sought, request.known.get(wanted.name, ()))))
