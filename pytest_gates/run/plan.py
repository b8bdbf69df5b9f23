"""Which executions a gate needs, and what makes two of them the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_gates.canonical import digest
from pytest_gates.contract.models import Gate
from pytest_gates.evidence import run_hash
from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun, RecordedRun, Run
from pytest_gates.model.faults import Fault


@dataclass(frozen=True)
class Execution:
    """One execution of a run. Equal keys are one execution, for cache, lock and namespace alike."""

    run: Run
    fault: Fault | None = None
    repetition: int = 0
    group: str | None = None
    """Executions of one group are interleaved on one device."""

    @cached_property
    def fault_data(self) -> dict[str, Any] | None:
        """The fault as plain data."""
        return None if self.fault is None else self.fault.model_dump(mode="json")

    @cached_property
    def key(self) -> str:
        """SHA-256 over run (its stimulus is part of it), fault, repetition and group."""
        return digest(
            {
                "run": run_hash(self.run),
                "fault": self.fault_data,
                "repetition": self.repetition,
                "group": self.group,
            }
        )

    @property
    def title(self) -> str:
        """What runs, in a few words."""
        return describe(self.run) + (f", fault {self.fault.fault}" if self.fault else "")


def executions(gate: Gate, fault: Fault | None = None) -> Mapping[str, tuple[Execution, ...]]:
    """The executions that judge a gate, by the name of their run.

    A fault is injected into every run of the gate that it can apply to.
    """
    return {
        name: tuple(
            Execution(run, _fitting(fault, run), repetition)
            for repetition in range(gate.repeats[name])
        )
        for name, run in gate.runs.items()
    }


def _fitting(fault: Fault | None, run: Run) -> Fault | None:
    if fault is None or isinstance(run, RecordedRun):
        return None
    return fault if fault.misfit(run) is None else None


def describe(run: Run) -> str:
    """A run in a few words, for people."""
    if isinstance(run, RecordedRun):
        return f"recorded {', '.join(file.path for file in run.files)}"
    if isinstance(run, ProbeRun):
        return "probe" + _hidden(run)
    model = _model(run)
    if isinstance(run, ForwardRun):
        beside = "" if run.against is None else f" against {run.against.weights or 'float64'}"
        return f"forward {model} on {run.device}{_hidden(run)}{beside}"
    assert isinstance(run, PretrainRun)
    shape = f"{run.steps} steps of {run.batch_size} x {run.seq_len}"
    return f"pretrain {model} on {run.device}{_hidden(run)}, {shape}"


def _model(run: PretrainRun | ForwardRun) -> str:
    if isinstance(run.model, str):
        return run.model
    if run.architecture is None:
        assert isinstance(run, ForwardRun)
        return str(run.weights)
    return f"{run.architecture.parameters:,} parameters"


def _hidden(run: PretrainRun | ForwardRun | ProbeRun) -> str:
    return " (CUDA hidden)" if run.host.cuda == "hidden" else ""
