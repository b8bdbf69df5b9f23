"""What every fault has: a typed form, an incident, the checks that must catch it, where it fits."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self, TypeAlias

from pytest_gates.model.config import (
    CommandRun,
    ForwardRun,
    PretrainRun,
    ProbeRun,
    Run,
    Settings,
)

Injectable: TypeAlias = PretrainRun | ForwardRun | ProbeRun | CommandRun


def absent(what: str, index: int, count: int) -> str | None:
    """Why a place that a fault names, counted from 0, is not in the model, or None."""
    return f"{what} {index} lies beyond the model's {count}" if index >= count else None


class BaseFault(Settings):
    """Base of the catalogue. A concrete fault adds `fault: Literal[...]` and its parameters."""

    meaning: ClassVar[str]
    """What it does, for the catalogue."""
    incident: ClassVar[str]
    """Where it comes from."""
    checks: ClassVar[tuple[str, ...]]
    """Kinds of checks that see it, or for planted evidence the guard that does."""
    fits: ClassVar[str]
    """Where it applies, in words; `misfit` is the rule itself."""
    captured: ClassVar[bool] = False
    """Whether a step that is captured in a CUDA graph carries it. Where not, the sabotaged run on
    a GPU is eager, and so is its clean control: the two differ in the fault alone."""

    @classmethod
    def carrier(cls, run: Run) -> Run:
        """The run in the form that the fault is tried in."""
        if cls.captured or not isinstance(run, PretrainRun):
            return run
        if run.device == "cpu" or run.launch is not None:  # never captured
            return run
        changed: dict[str, object] = {"execution": "eager"}
        if run.resume is not None:
            continued = cls.carrier(run.resume.run)
            changed["resume"] = run.resume.model_copy(update={"run": continued})
        return run.model_copy(update=changed)

    @abstractmethod
    def misfit(self, run: Injectable) -> str | None:
        """Why the fault cannot apply to this run, or None: a precondition over the run alone."""

    def unseen(self, run: Injectable) -> str | None:
        """Why nothing could tell a run with the fault from one without, or None."""
        return None

    @classmethod
    def typical(cls, run: Injectable) -> Self:
        """The fault with parameters that suit a run; what `mutate` injects."""
        name: str = cls.model_fields["fault"].annotation.__args__[0]  # type: ignore[union-attr] # a Literal of one word
        return cls.model_validate({"fault": name} | cls.suited(run))

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """Parameters that differ from their defaults for this run."""
        return {}


def refused(run: Injectable) -> bool:
    """Whether the run asks for a device that is hidden from it, so that nothing is ever built."""
    if isinstance(run, ProbeRun):
        return False
    return run.device.startswith("cuda") and run.host.cuda == "hidden"


def untrained(run: Injectable) -> str | None:
    """Why the run never trains, or None."""
    if not isinstance(run, PretrainRun):
        return f"driver {run.driver} does not train"
    return "the run is refused its device and never trains" if refused(run) else None


def unvalidated(run: Injectable) -> str | None:
    """Why the run never validates, or None."""
    if (why := untrained(run)) is not None:
        return why
    assert isinstance(run, PretrainRun)
    return None if run.validation_batches else "the run validates nothing"


def beyond(run: Injectable, name: str, step: int) -> str | None:
    """Why the run does not reach a step, or None."""
    if (why := untrained(run)) is not None:
        return why
    assert isinstance(run, PretrainRun)
    if step < run.steps:
        return None
    return f"{name} {step} lies beyond the run's {run.steps} steps"


def modelless(run: Injectable) -> str | None:
    """Why the run feeds no model whose path a gate looks at, or None."""
    if isinstance(run, ProbeRun):
        return "a probe has no model"
    return "the run is refused its device and builds no model" if refused(run) else None


def off_cuda(run: Injectable) -> str | None:
    """Why the run does not train on an explicit CUDA device, or None."""
    if (why := untrained(run)) is not None:
        return why
    assert isinstance(run, PretrainRun)
    return None if run.device.startswith("cuda") else f"the run asks for {run.device}"


LARGE = 50_000_000
"""Parameters above which a fault that moves training to the CPU is only tried shortened."""
TOO_LARGE = "so large a model on the CPU takes hours; a falsifier that shortens the run tries it"


def too_large(run: Injectable) -> str | None:
    """Why the fault is left to a falsifier that shortens the run, or None."""
    if isinstance(run, PretrainRun) and run.architecture.parameters > LARGE:
        return TOO_LARGE
    return None


CPU_TIMES = "absolute times of a CPU are no claim"


def untimed(run: Injectable) -> str | None:
    """Why a slower step of this run breaks no claim, or None."""
    on_cuda = not isinstance(run, ProbeRun) and run.device.startswith("cuda")
    return None if on_cuda else CPU_TIMES
