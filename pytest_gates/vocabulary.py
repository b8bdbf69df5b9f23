"""Words that checks and reports share: GPUs and their ceilings, throttle bits, discharge statuses.

Metrics, events and exit statuses are in `model.telemetry`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from pytest_gates.evidence import CONTAMINATING_REASONS


@dataclass(frozen=True)
class GpuModel:
    """A GPU by the name NVML gives it."""

    name: str
    bf16_tflops: float
    """Dense bf16 matmul peak with fp32 accumulation: no program is faster, most reach 80 %."""
    source: str


_A100 = "nvidia.com/en-us/data-center/a100: BFLOAT16 Tensor Core 312"
_H100 = "nvidia.com/en-us/data-center/h100: BFLOAT16 Tensor Core"

# Where NVIDIA prints figures with 2:4 sparsity, half of them is the dense peak. A row is here only
# if its figure could be looked up; `gpus:` in a contract adds others, with their source.
GPUS: dict[str, GpuModel] = {
    gpu.name: gpu
    for gpu in (
        GpuModel(
            "NVIDIA B200", 2250, "NVIDIA Blackwell datasheet, HGX B200: 4.5 PFLOPS sparse, halved"
        ),
        GpuModel(
            "NVIDIA H200", 989.5, "nvidia.com/en-us/data-center/h200: H200 SXM 1979 sparse, halved"
        ),
        GpuModel("NVIDIA H100 80GB HBM3", 989.5, f"{_H100}, SXM 1979 sparse, halved"),
        GpuModel("NVIDIA H100 NVL", 835.5, f"{_H100}, NVL 1671 sparse, halved"),
        GpuModel("NVIDIA H100 PCIe", 756.5, f"{_H100}, PCIe 1513 sparse, halved"),
        GpuModel("NVIDIA A100-SXM4-40GB", 312, _A100),
        GpuModel("NVIDIA A100-SXM4-80GB", 312, _A100),
        GpuModel("NVIDIA A100-PCIE-40GB", 312, _A100),
        GpuModel("NVIDIA A100 80GB PCIe", 312, _A100),
        GpuModel("NVIDIA A10", 125, "NVIDIA A10 datasheet: 125 dense"),
        GpuModel("NVIDIA A40", 149.7, "NVIDIA A40 datasheet: 149.7 dense"),
        GpuModel("NVIDIA L4", 121, "NVIDIA L4 datasheet: 242 sparse, halved"),
        # The dense figure printed beside it, 362.05, is less than half: the bound is the larger.
        GpuModel("NVIDIA L40S", 366.5, "NVIDIA L40S datasheet: 733 sparse, halved"),
        GpuModel(
            "NVIDIA GeForce RTX 4090",
            165.2,
            "NVIDIA Ada GPU architecture whitepaper v2: BF16 with FP32 accumulation, dense",
        ),
        GpuModel(
            "NVIDIA GeForce RTX 5090",
            209.6,
            "NVIDIA RTX Blackwell whitepaper: FP16 838.4 sparse, halved; FP32 accumulation halves",
        ),
    )
}
"""GPU names that contracts may use; a contract adds others by `gpus:`."""

THROTTLE_REASONS: dict[int, str] = {
    0x001: "GpuIdle",
    0x002: "ApplicationsClocksSetting",
    0x004: "SwPowerCap",
    0x008: "HwSlowdown",
    0x010: "SyncBoost",
    0x020: "SwThermalSlowdown",
    0x040: "HwThermalSlowdown",
    0x080: "HwPowerBrakeSlowdown",
    0x100: "DisplayClockSetting",
}
"""NVML's clock event reasons by bit (nvml.h, nvmlClocksEventReasons)."""


FALSIFIED = "FALSIFIED"
PENDING = "PENDING"
PARTIAL = "PARTIAL_ALGORITHM_LEVEL"
ACTIVE = "ACTIVE_WITH_LIVE_EVIDENCE"

DISCHARGE_STATUSES: dict[str, str] = {
    FALSIFIED: "the current verdict is `fail`",
    PENDING: "the current verdict is neither `pass` nor `fail`",
    PARTIAL: "passed, but by a recording, or no falsifier has seen the gate red",
    ACTIVE: "passed by a run of the program's own, and a falsifier has seen the gate red",
}
"""How far a record discharges its gate, in the field's own words, weakest first."""


def reason_names(bits: int) -> tuple[str, ...]:
    """The names of the bits that are set, of those that contaminate a measurement."""
    contaminating = bits & CONTAMINATING_REASONS
    return tuple(name for bit, name in THROTTLE_REASONS.items() if bit & contaminating)


HINT_CUTOFF = 0.75
"""How alike two words must be (difflib's ratio) for one to be meant by the other."""

MOST_TOLD = 25
"""Names that an error tells one by one."""


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that `word` nearly spells, or None.

    Two letters that changed places are one slip, however short the word: `rnu` is `run`.
    """
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    for one in known:
        if one in swapped - {word}:
            return one
    matches = difflib.get_close_matches(word, known, n=1, cutoff=HINT_CUTOFF)
    return matches[0] if matches else None


def _words(name: str) -> list[str]:
    return name.replace("_", " ").split()


def hint(word: str, known: Collection[str], listed: str = "") -> str:
    """What an unknown word may have meant: names it is a part of, else a near miss, else all.

    `wall` is `wall_ms` without its unit, `loss` any of three, `RTX 4090` lacks `NVIDIA` and
    `GeForce`. Where there are too many to be told in a line, `listed` says where they are.
    """
    said = set(_words(word))
    wider = [one for one in known if said <= set(_words(one))]
    near = (wider if said else []) or [one for one in [nearest(word, known)] if one is not None]
    if near:
        return f"did you mean {' or '.join(f'`{one}`' for one in near)}?"
    if listed and len(known) > MOST_TOLD:
        return f"there are {len(known)}, listed in {listed}"
    return f"known: {', '.join(known) or 'none'}"
