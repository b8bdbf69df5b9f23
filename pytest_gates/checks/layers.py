"""The layers of `residency`, each proven, refuted, or unavailable with the reason."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from pytest_gates.checks.ceilings import cpu_flops, gpu_flops
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.figures import short
from pytest_gates.checks.window import event_ms, resolved_device, samples, training_span_ms
from pytest_gates.evidence import Evidence, Sample
from pytest_gates.model.device import parse_device

MIB = 2**20
SEVERAL = 2
"""One sample proves a moment, not a run."""
LONGEST_GAP_MS = 1000.0
LONGEST_GAP_SHARE = 0.2
"""No part of the training longer than this, in time or as a share, goes without a sample."""
GRANULARITY_MIB = 2.0
"""CUDA hands out memory in pages of 2 MiB."""
BUSY_PCT = 10.0
"""Less than this is an idle device under a run that trains."""


class State(StrEnum):
    """What is known of a layer, best first."""

    PROVEN = "PROVEN"
    REFUTED = "REFUTED"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Finding:
    """The state of a layer, and why."""

    state: State
    reason: str


def _proven(reason: str) -> Finding:
    return Finding(State.PROVEN, reason)


def _refuted(reason: str) -> Finding:
    return Finding(State.REFUTED, reason)


def _unavailable(reason: str) -> Finding:
    return Finding(State.UNAVAILABLE, reason)


def canonical_device(name: str) -> str:
    """`cuda` and `cuda:0` are one device; what is no device stays as it is."""
    try:
        device = parse_device(name)
    except ValueError:
        return name
    return f"cuda:{device.index}" if device.kind == "cuda" else device.kind


def _asked(evidence: Evidence) -> str | None:
    device = shape_of(evidence.run).device
    return None if device is None else canonical_device(device)


def _resolved(evidence: Evidence) -> str | None:
    device = resolved_device(evidence)
    return None if device is None else canonical_device(device)


def l0_resolved(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L0: an explicit `cuda` never resolves to anything else."""
    asked, resolved = _asked(evidence), _resolved(evidence)
    if asked is None or resolved is None:
        return _unavailable("the run does not say what device it resolved")
    told = evidence.main.facts.get("device_requested")
    if isinstance(told, str) and canonical_device(told) != asked:
        return _refuted(f"declared {asked}, but the run was asked for {told}")
    text = f"asked for {asked}, resolved {resolved}"
    return _proven(text) if resolved == asked else _refuted(text)


def l1_placed(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L1: parameters, gradients and optimizer state are on the device, before and after."""
    asked, floor = _asked(evidence), shape_of(evidence.run).census_bytes
    if asked is None or floor is None:
        return _unavailable("the run does not declare device and model")
    before, after = (_placement(evidence, name) for name in ("residency_before", "residency_after"))
    if before is None or after is None:
        return _unavailable("the run does not say where its state lies before and after")
    for when, placed in (("before", before), ("after", after)):
        for part, device, _ in placed:
            if canonical_device(device) != asked:
                return _refuted(f"{part} {when} training on {device}, not {asked}")
    held = sum(size for part, _, size in after if part in {"parameters", "optimizer"})
    text = f"{held / MIB:.0f} MiB of parameters and optimizer state on {asked}"
    if not any(part == "parameters" and size > 0 for part, _, size in before):
        return _refuted("no parameters before training")
    if held < floor:
        return _refuted(f"{text}, the declared state takes {floor / MIB:.0f}")
    return _proven(text)


def _placement(evidence: Evidence, name: str) -> list[tuple[str, str, int]] | None:
    """(part, device, bytes) of a residency fact; None if the run does not say it in that form."""
    fact = evidence.main.facts.get(name)
    if not isinstance(fact, Mapping) or not all(
        isinstance(part, Mapping) for part in fact.values()
    ):
        return None
    placed = [
        (part, device, size) for part, where in fact.items() for device, size in where.items()
    ]
    return placed if all(isinstance(size, int) for _, _, size in placed) else None


def l2_allocator(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L2: the device's allocator holds at least the census after every step."""
    floor = shape_of(evidence.run).census_bytes
    held = samples(evidence, "memory_mib")
    resolved = _resolved(evidence)
    if resolved == "cpu":
        return _refuted("the run's memory is the CPU's")
    if floor is None or resolved is None or held.gap is not None:
        return _unavailable(held.gap or "the run does not say device and model")
    least = min(held.values)
    text = f"least {least:.0f} MiB after a step, floor {floor / MIB:.0f}"
    # Written so that a NaN refutes.
    enough = all(value >= floor / MIB for value in held.values)
    return _proven(text) if enough else _refuted(text)


def l3_witnessed(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L3: the process outside reads the run's PID with at least the census, all the time."""
    pid = evidence.pid if evidence.pid is not None else shape_of(evidence.run).pid
    if pid is None:
        return _unavailable("the run's PID is not known")
    if not evidence.witness.samples:
        return _unavailable(evidence.witness.unavailable or "there are no samples")
    own = [sample for sample in evidence.witness.samples if sample.pid == pid]
    if not own:
        seen = evidence.witness.gaps.get("pid", f"PID {pid} is in no sample")
        return _unavailable(f"{seen} (in containers PIDs do not match)")
    told = [(sample.at_ms, sample.used_mib) for sample in own if sample.used_mib is not None]
    if not told:
        return _unavailable(evidence.witness.gaps.get("used_mib", "NVML does not tell its memory"))
    return _held_throughout(evidence, told, f"PID {pid}")


def l3b_witnessed(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L3b: told allocations are seen to the page, and the device holds the census in training."""
    allocations = evidence.witness.allocations
    if len(allocations) < SEVERAL:
        return _unavailable(f"{len(allocations)} told allocations were watched, {SEVERAL} needed")
    read = [(one.told_mib, one.seen_mib) for one in allocations if one.seen_mib is not None]
    if len(read) < len(allocations):
        return _unavailable("the witness could not read the device's memory")
    text = ", ".join(f"told {told}, seen {short(seen)} MiB" for told, seen in read)
    if any(not abs(seen - told) <= GRANULARITY_MIB for told, seen in read):
        if any(sample.foreign_pids for sample in evidence.witness.samples):
            return _unavailable(f"{text}, with foreign processes on the device")
        return _refuted(text)
    held = _device_rose(evidence)
    return Finding(held.state, f"{text}; {held.reason}")


def _device_rose(evidence: Evidence) -> Finding:
    """Whether the device as a whole holds the census on top of what it held before the run."""
    used = [
        (sample.at_ms, sample.device_used_mib)
        for sample in evidence.witness.samples
        if sample.device_used_mib is not None
    ]
    if not used:
        return _unavailable("the witness could not read the device's memory in training")
    built = event_ms(evidence, "model_built")
    if built is not None and used[0][0] >= built:
        return _unavailable("no sample shows what the device held before the model was built")
    # What others held already when the run's process started proves nothing about the run.
    rise = [(at, mib - used[0][1]) for at, mib in used]
    return _held_throughout(evidence, rise, "beyond what it held before, the device")


def _held_throughout(evidence: Evidence, told: Sequence[tuple[float, float]], who: str) -> Finding:
    """Whether (time, MiB) samples show the census from the first step's end to the last one's."""
    floor = shape_of(evidence.run).census_bytes
    if floor is None:
        return _unavailable("the run declares no model, so there is no census")
    least = floor / MIB
    if not any(mib >= least for _, mib in told):
        return _refuted(f"{who} never holds more than {max(m for _, m in told):.0f} MiB, "
                        f"floor {least:.0f}")  # fmt: skip
    span = _after_first_step(evidence)
    if span is None:
        # Training begins at the latest when the floor is first reached.
        start = next(at for at, mib in told if mib >= least)
        span = (start, told[-1][0])
    during = [(at, mib) for at, mib in told if span[0] <= at <= span[1]]
    if len(during) < SEVERAL:
        return _unavailable(f"{len(during)} sample(s) of {who} in training, {SEVERAL} needed")
    lowest = min(mib for _, mib in during)
    # Written so that a NaN refutes.
    if not all(mib >= least for _, mib in during):
        return _refuted(f"{who} falls to {lowest:.0f} MiB in training, floor {least:.0f}")
    gap = _longest_gap([at for at, _ in during], span)
    if gap > max(LONGEST_GAP_MS, LONGEST_GAP_SHARE * (span[1] - span[0])):
        return _unavailable(f"no sample of {who} for {gap:.0f} ms of the training")
    return _proven(f"{who} holds {lowest:.0f} MiB or more in {len(during)} samples, "
                   f"floor {least:.0f}")  # fmt: skip


def _after_first_step(evidence: Evidence) -> tuple[float, float] | None:
    """The training without its first step, in which the optimizer's state is made."""
    whole, first = training_span_ms(evidence), training_span_ms(evidence, (0, 0))
    return None if whole is None or first is None else (first[1], whole[1])


def _longest_gap(times: Sequence[float], span: tuple[float, float]) -> float:
    marks = [span[0], *times, span[1]]
    return max(after - before for before, after in pairwise(marks))


def _in_training(evidence: Evidence) -> list[Sample]:
    span = _after_first_step(evidence)
    return [
        sample
        for sample in evidence.witness.samples
        if span is None or span[0] <= sample.at_ms <= span[1]
    ]


def l4_busy(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L4: the process keeps the SMs busy, or else its kernels fill the time of its steps."""
    rates = [s.sm_util_pct for s in _in_training(evidence) if s.sm_util_pct is not None]
    if len(rates) >= SEVERAL:
        busy = statistics.median(rates)
        text = f"median SM utilisation of the process {short(busy)} %"
    else:
        gpu, wall = samples(evidence, "gpu_ms"), samples(evidence, "wall_ms")
        if gpu.gap is not None or wall.gap is not None:
            return _unavailable(f"no SM utilisation of the process; {gpu.gap or wall.gap}")
        shares = [
            100 * a / b if b > 0 else 0.0 for a, b in zip(gpu.values, wall.values, strict=True)
        ]
        busy = statistics.median(shares)
        text = f"median GPU time {short(busy)} % of wall time, as the run says"
    return _proven(text) if busy >= BUSY_PCT else _refuted(text)


def l5_speed(evidence: Evidence, gpus: Mapping[str, float]) -> Finding:
    """L5: FLOPs over wall time are beyond what the CPU can do and within what the GPU can."""
    flops, walls = shape_of(evidence.run).step_flops, samples(evidence, "wall_ms")
    if flops is None:
        return _unavailable("the run does not declare model, seq_len and batch_size")
    if walls.gap is not None:
        return _unavailable(walls.gap)
    ceiling, floor = gpu_flops(evidence, gpus), cpu_flops(evidence)
    fastest = min(walls.values)
    if not isinstance(ceiling, str) and not flops <= ceiling * fastest / 1000:
        text = f"a step of {flops / 1e12:.3g} TFLOP in {short(fastest)} ms"
        return _refuted(f"{text} is beyond the GPU's {ceiling / 1e12:.4g} TFLOP/s")
    if isinstance(ceiling, str) or isinstance(floor, str):
        return _unavailable(ceiling if isinstance(ceiling, str) else str(floor))
    speed = flops / statistics.median(walls.values) * 1000
    text = f"{speed / 1e12:.3g} TFLOP/s, CPU at most {floor / 1e12:.3g}, "
    text += f"GPU at most {ceiling / 1e12:.4g}"
    # A CPU could have done it too: that refutes nothing, and proves nothing.
    return _proven(text) if speed > floor else _unavailable(text)
