"""Faults of the team's own program: they need no cooperation, since all come from outside."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, StrictStr, WithJsonSchema

from pytest_gates.model.command import CommandRun, variables
from pytest_gates.model.config import NotNegative, Positive
from pytest_gates.model.faults.base import (
    CPU_TIMES,
    LARGE,
    TOO_LARGE,
    BaseFault,
    Injectable,
)
from pytest_gates.model.telemetry import METRICS

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Milliseconds = Annotated[Positive, Field(le=60_000)]
TOLD = tuple(name for name, one in METRICS.items() if one.scope == "step" and name != "step")


def _told(metric: str) -> str:
    if metric not in TOLD:
        raise ValueError(f"{metric!r} is no metric of a step")
    return metric


def _some(environment: dict[str, str]) -> dict[str, str]:
    if not environment:
        raise ValueError("name at least one variable")
    return variables(environment)


class OfProgram(BaseFault):
    """Base of the faults of driver `command`."""

    fits = "runs of driver `command`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a program of the team's own."""
        return None if isinstance(run, CommandRun) else f"driver {run.driver} starts no program"


class HiddenDevices(OfProgram):
    """The program sees no CUDA device, whatever the run asks for."""

    fault: Literal["hidden_devices"]
    meaning = "every CUDA device is hidden from the program, which was given one"
    incident = "a container started without its GPU flag; the script fell back to the CPU"
    checks = ("residency", "exit_status", "budget", "fact")
    fits = "runs of driver `command` on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a program that is given a GPU."""
        wrong = super().misfit(run)
        if wrong is not None or not isinstance(run, CommandRun):
            return wrong
        return None if run.device.startswith("cuda") else f"the run asks for {run.device}"

    def unseen(self, run: Injectable) -> str | None:
        """A large model on the CPU takes hours."""
        architecture = run.architecture if isinstance(run, CommandRun) else None
        if architecture is not None and architecture.parameters > LARGE:
            return TOO_LARGE
        return None


class OtherEnvironment(OfProgram):
    """Environment variables of the program are other ones."""

    fault: Literal["other_environment"]
    variables: Annotated[
        dict[StrictStr, StrictStr],
        AfterValidator(_some),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
    ]
    """Variables by name, on top of the run's own."""
    meaning = "environment variables of the program are set to other values"
    incident = "a learning rate of 0 exported in a shell months ago"
    checks = ("descent", "not_constant", "bounded", "exit_status", "equal_runs")

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """Threads of OpenMP: the one variable that every program hears."""
        return {"variables": {"OMP_NUM_THREADS": "1"}}

    def unseen(self, run: Injectable) -> str | None:
        """What a variable does is the program's own matter: a falsifier names one."""
        return "which variable matters is known to the program alone; a falsifier names it"


class SlowProgram(OfProgram):
    """The program is stopped (SIGSTOP) for `pause_ms` after every `run_ms` that it may run."""

    fault: Literal["slow_program"]
    pause_ms: Milliseconds = 200
    """How long it stands still."""
    run_ms: Milliseconds = 20
    """How long it goes on in between; timed to some 20 ms."""
    after_s: NotNegative | None = None
    """Seconds after its start from which on; left out: from the first step that it tells."""
    meaning = "the program's processes are stopped and continued from outside, again and again"
    incident = "a neighbour on the host that took nine tenths of every second"
    checks = ("budget", "exit_status")

    def unseen(self, run: Injectable) -> str | None:
        """Absolute times of a CPU are no claim."""
        on_cuda = isinstance(run, CommandRun) and run.device.startswith("cuda")
        return None if on_cuda else CPU_TIMES


class KilledProgram(OfProgram):
    """The program is killed (SIGKILL) once it has told a step, or `after_s` seconds on."""

    fault: Literal["killed_program"]
    after_s: NotNegative | None = None
    """Seconds after its start; left out: at the first step that it tells."""
    meaning = "the program's processes are killed from outside"
    incident = "a node's out-of-memory killer that nobody read the log of"
    checks = ("exit_status",)


class PlantedTelemetry(OfProgram):
    """What the program told is another number when it is read."""

    fault: Literal["planted_telemetry"]
    metric: Annotated[StrictStr, AfterValidator(_told)]
    """A metric of steps."""
    value: Finite | Literal["NaN", "Infinity", "-Infinity"]
    """What it says instead: a number, or a text of these, as in telemetry."""
    from_step: Annotated[StrictInt, Field(ge=0)] = 0
    """First step whose line is changed."""
    meaning = "a metric of the program's telemetry is replaced on its way into the evidence"
    incident = "a plotting script that wrote the last value it had into every later row"
    checks = ("finite", "descent", "not_constant", "bounded", "budget")

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """The loss, not a number."""
        return {"metric": "train_loss", "value": "NaN"}
