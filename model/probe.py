"""The probe: what the machine offers, and properties of the program's own rules. No model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_gates.model.config import ProbeRun, Request
from pytest_gates.model.seams import CLEAN, Seams
from pytest_gates.model.writer import TelemetryWriter

if TYPE_CHECKING:
    from pytest_gates.model.properties.search import Search


FurtherRules = Callable[[], Mapping[str, "Callable[[Any, Seams], Search[Any]]"]]
"""Properties of rules that lie outside of `model`, by name, for who may import them; asked only
where a property is declared, since the searches import hypothesis."""


def no_further() -> Mapping[str, Callable[[Any, Seams], Search[Any]]]:
    """The rules of `model` alone."""
    return {}


def run(
    request: Request,
    writer: TelemetryWriter,
    seams: Seams = CLEAN,
    further: FurtherRules = no_further,
) -> None:
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
        _search_properties(request, writer, seams, further)


def _search_properties(
    request: Request, writer: TelemetryWriter, seams: Seams, further: FurtherRules
) -> None:
    # hypothesis is imported only where a property is declared
    from pytest_gates.model.properties.of_rules import OF_THE_RULES  # noqa: PLC0415
    from pytest_gates.model.properties.search import search  # noqa: PLC0415

    assert isinstance(request.run, ProbeRun)
    known, rules = request.known, OF_THE_RULES | dict(further())
    for wanted in request.run.properties:
        sought = rules[wanted.name](wanted, seams)
        writer.property(**vars(search(wanted.name, sought, known.get(wanted.name, ()))))
