"""`memory`: what a training run holds, against what its formula says beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from pytest_gates.checks.base import NO_GPUS, Outcome, Positive, Refusal, RunCheck, Verdict
from pytest_gates.checks.figures import headroom, several, short
from pytest_gates.checks.window import ended, resolved_device, unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.memory import MemoryEstimate, memory_estimate

_MIB = 2**20
_STEP_COUNTER = 4
"""Bytes of AdamW's counter of a parameter's updates, which are beyond the formula."""


class Memory(RunCheck):
    """Parameters, gradients and moments have exactly their formula's bytes; the peak is within it.

    The peak is that of the device's allocator. On a CPU resident memory is the interpreter's too,
    so the peak decides nothing there.
    """

    kind: Literal["memory"]
    peak: Literal["within", "ignored"] = "ignored"
    """Whether the measured peak must not exceed the estimate of the whole."""
    peak_at_least: Positive | None = None
    """Smallest share of the estimate that the peak must reach: an estimate may not be a guess."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that are not the built-in trainer's, and peaks of a CPU."""
        if not isinstance(run, PretrainRun):
            yield (), f"driver {run.driver} trains nothing"
        elif run.device == "cpu" and (self.peak != "ignored" or self.peak_at_least is not None):
            yield ("peak",), "resident memory of a CPU run is not its tensors' alone"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        run = evidence.run
        assert isinstance(run, PretrainRun), "refused when the contract was loaded"
        cuda = on_cuda(evidence)
        estimate = estimate_of(evidence)
        said = evidence.main.facts.get("residency_after")
        if not isinstance(said, dict):
            text = unfinished(evidence) or "the run does not say how large its state is"
            return Outcome("memory", Verdict.INCONCLUSIVE, text)
        wrong = list(_inexact(said, estimate, evidence))
        peak = evidence.main.facts.get("peak_mib")
        measured = self.peak != "ignored" or self.peak_at_least is not None
        if measured and not (cuda and isinstance(peak, int | float)):
            text = f"no peak of a device's allocator (the run used {resolved_device(evidence)})"
            return Outcome("memory", Verdict.INCONCLUSIVE, text)
        if measured:
            wrong += self._peak(float(peak or 0), estimate.total / _MIB)
        exact = (estimate.parameters + estimate.gradients + estimate.optimizer) / _MIB
        text = f"parameters, gradients and moments hold their {short(exact)} MiB to the byte"
        if measured:
            text += f"; peak {short(float(peak or 0))} of {short(estimate.total / _MIB)} MiB"
        return Outcome(
            check="memory",
            verdict=Verdict.FAIL if wrong else Verdict.PASS,
            summary=(several(wrong) if wrong else text) + ended(evidence),
            figure=f"peak {short(float(peak or 0))} MiB" if measured else f"{short(exact)} MiB",
            limit=f"<= {short(estimate.total / _MIB)} MiB" if measured else "exact",
            headroom_pct=headroom(float(peak or 0), estimate.total / _MIB, below=True)
            if measured
            else None,
            value=float(peak) if measured and peak is not None else None,
            unit="MiB",
            detail=tuple(
                f"{name}: {short(value / _MIB)} MiB estimated"
                for name, value in vars(estimate).items()
            ),
        )

    def _peak(self, peak: float, estimate: float) -> Iterator[str]:
        # Written so that a NaN is within nothing.
        if self.peak == "within" and not peak <= estimate:
            yield f"peak {short(peak)} MiB exceeds the estimate of {short(estimate)} MiB"
        if self.peak_at_least is not None and not peak >= self.peak_at_least * estimate:
            yield (
                f"peak {short(peak)} MiB is {short(peak / estimate)} of the estimate, "
                f"at least {short(self.peak_at_least)} wanted"
            )


def on_cuda(evidence: Evidence) -> bool:
    """Whether a training ran on a GPU, so that an allocator tells its memory."""
    assert isinstance(evidence.run, PretrainRun)
    return (resolved_device(evidence) or evidence.run.device).startswith("cuda")


def estimate_of(evidence: Evidence) -> MemoryEstimate:
    """What the formula says of a training as it was executed."""
    run = evidence.run
    assert isinstance(run, PretrainRun)
    bf16 = run.dtype == "bf16" or (run.dtype == "auto" and on_cuda(evidence))
    fused = evidence.main.facts.get("execution") == "fused"
    return memory_estimate(run, bf16=bf16, fused=fused)


def _inexact(
    said: Mapping[str, Any], estimate: MemoryEstimate, evidence: Evidence
) -> Iterator[str]:
    run = evidence.run
    assert isinstance(run, PretrainRun)
    shape = run.architecture
    tensors = 9 * shape.layers + 2 + (not shape.tied)
    for part, extra in (("parameters", 0), ("gradients", 0), ("optimizer", tensors)):
        found = sum(said.get(part, {}).values())
        wanted = getattr(estimate, part) + extra * _STEP_COUNTER
        if found != wanted:
            yield f"{part} hold {found:,} bytes, the formula says {wanted:,}"
