"""Faults of speed and memory: the right numbers, too slowly or in too much room."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pytest_gates.model.config import ForwardRun, Index, Positive, PretrainRun
from pytest_gates.model.faults.base import (
    BaseFault,
    Injectable,
    beyond,
    modelless,
    off_cuda,
    untimed,
    untrained,
)

Milliseconds = Annotated[Positive, Field(le=60_000)]


class SlowStep(BaseFault):
    """Every step from `from_step` on waits `ms` milliseconds longer on the host."""

    fault: Literal["slow_step"]
    captured = True
    ms: Milliseconds = 600
    from_step: Index = 0
    meaning = "the host sleeps before it launches a step, or of a forward run a pass"
    incident = "a data loader blocked on a network file system once a step"
    checks = ("budget", "ratio_of_runs")
    fits = "training runs and forward runs, whose steps are tokens; `mutate`: on CUDA alone"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run that reaches `from_step`: of training, or a token to generate."""
        if not isinstance(run, ForwardRun):
            return beyond(run, "from_step", self.from_step)
        passes = 1 if run.decode is None else run.decode.tokens
        late = f"from_step {self.from_step} lies beyond the run's {passes} passes"
        return late if self.from_step >= passes else modelless(run)

    def unseen(self, run: Injectable) -> str | None:
        """See `untimed`."""
        return untimed(run)


class SlowTail(BaseFault):
    """One step in `every` waits `ms` milliseconds longer: p95 moves, the median does not."""

    fault: Literal["slow_tail"]
    captured = True
    ms: Milliseconds = 600
    every: Annotated[StrictInt, Field(ge=2, le=1000)] = 20
    meaning = "the host sleeps before one step in `every`"
    incident = "a garbage collection of the host every few seconds that no median showed"
    checks = ("budget",)
    fits = "training runs of at least `every` steps; `mutate` injects it on CUDA alone"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run in which it takes effect."""
        return beyond(run, "every", self.every - 1)

    def unseen(self, run: Injectable) -> str | None:
        """See `untimed`."""
        return untimed(run)


class SyncPerLayer(BaseFault):
    """The host waits for the device after each block."""

    fault: Literal["sync_per_layer"]
    meaning = "the host waits for the device after each block of each pass"
    incident = "a debug print of a tensor's mean, left in every layer"
    checks = ("budget", "ratio_of_runs")
    fits = "training runs on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run on CUDA."""
        return off_cuda(run)


class SlowSide(BaseFault):
    """Every step of the runs on one side of a comparison waits."""

    fault: Literal["slow_side"]
    captured = True
    side: Literal["micro_batches", "deterministic"]
    """Runs with this setting wait; the others do not."""
    ms: Milliseconds = 200
    meaning = "the host sleeps before each step of the runs that have the setting `side`"
    incident = "a feature that was free on the day it was measured, and never measured again"
    checks = ("ratio_of_runs",)
    fits = "training runs with the setting"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that has the setting."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun):
            has = run.deterministic if self.side == "deterministic" else len(run.micro_sizes) > 1
            return None if has else f"the run has no setting {self.side}"
        return why

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """The side that the run is on."""
        strict = isinstance(run, PretrainRun) and run.deterministic
        return {"side": "deterministic" if strict else "micro_batches"}


class HiddenWork(BaseFault):
    """Each step ends with work that no part of it tells."""

    fault: Literal["hidden_work"]
    captured = True
    ms: Milliseconds = 200
    meaning = "the host sleeps at the end of a step, after the last of its parts"
    incident = "a callback between the optimizer and the log that no timer covered"
    checks = ("anatomy",)
    fits = "training runs that take steps apart"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that takes its steps apart."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and not run.anatomy:
            return "the run takes no step apart"
        return why


class FusedAttentionOff(BaseFault):
    """Attention falls back to the unfused kernel."""

    fault: Literal["fused_attention_off"]
    meaning = "attention runs in the plain kernel instead of a fused one"
    incident = "a mask argument that silently ruled out flash attention"
    checks = ("fact", "budget", "ratio_of_runs")
    fits = "training and forward runs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run with a model."""
        return modelless(run)


class MemoryLeak(BaseFault):
    """Each step keeps `mib` MiB more."""

    fault: Literal["memory_leak"]
    mib: Annotated[StrictInt, Field(ge=1, le=1024)] = 8
    meaning = "each step keeps a tensor of `mib` MiB alive"
    incident = "losses appended to a list with their graphs attached"
    checks = ("descent", "monotone", "bounded")
    fits = "training runs of at least 20 steps"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run long enough for a slope."""
        return untrained(run) or beyond(run, "a leak over", 19)
