"""How fast the device of an execution can be at most."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.window import resolved_device
from pytest_gates.evidence import Evidence
from pytest_gates.vocabulary import GPUS

TERA = 1e12


def gpu_flops(evidence: Evidence, gpus: Mapping[str, float]) -> float | str:
    """Ceiling of the host's GPU in FLOP/s, or why it is not known.

    Args:
        evidence: The execution.
        gpus: bf16 matmul ceilings, in TFLOP/s, of the GPUs that the contract adds.
    """
    gpu = evidence.host.gpu
    if gpu is None:
        return "the host is not known to have a GPU"
    if gpu.name in gpus:
        return gpus[gpu.name] * TERA
    if gpu.name in GPUS:
        return GPUS[gpu.name].bf16_tflops * TERA
    return f"no matmul ceiling for {gpu.name}; add a row to the contract's `gpus:`"


def cpu_flops(evidence: Evidence) -> float | str:
    """Ceiling of the host's CPU in FLOP/s, or why it is not known."""
    if evidence.host.cpu_flops is None:
        return "the host's CPU ceiling is not known"
    return evidence.host.cpu_flops


def device_flops(evidence: Evidence, gpus: Mapping[str, float]) -> float | str:
    """Ceiling of the device that the run used, or why it is not known."""
    device = resolved_device(evidence) or shape_of(evidence.run).device
    if device is None:
        return "the run does not say which device it used"
    return cpu_flops(evidence) if device == "cpu" else gpu_flops(evidence, gpus)
