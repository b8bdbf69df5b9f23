"""Which executions a gate needs, and what makes two of them the same one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_gates.canonical import digest
from pytest_gates.contract.models import Falsifier, Gate
from pytest_gates.errors import GatesError
from pytest_gates.evidence import run_hash
from pytest_gates.model.config import (
    CommandRun,
    ForwardRun,
    PretrainRun,
    ProbeRun,
    RecordedRun,
    Run,
    declared_launch,
)
from pytest_gates.model.faults import Fault, Planted, misfit
from pytest_gates.model.training import DataEnd, FlippedBit, ValidationLoss

LARGE = 50_000_000
"""Parameters of which more are 200 MB and, while they are traced or trained, several times that."""
SHOWN = 60
"""Characters of a command line that people are shown."""


@dataclass(frozen=True)
class Execution:
    """One execution of a run. Equal keys are one execution, for cache, lock and namespace alike."""

    run: Run
    fault: Fault | None = None
    repetition: int = 0
    group: str | None = None
    """Executions of one group are interleaved on one device."""
    members: tuple[tuple[Run, Fault | None], ...] = ()
    """All runs of the group with their faults, in the order they take turns."""

    def __hash__(self) -> int:
        """By the run's hash, which is known: a run is a large thing to be hashed for each gate."""
        return hash((run_hash(self.run), self.repetition, self.group))

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
    def source(self) -> Execution | None:
        """The execution whose checkpoint this one continues."""
        run = self.run
        if not isinstance(run, PretrainRun) or run.resume is None:
            return None
        return Execution(run.resume.run)

    @property
    def companions(self) -> tuple[Execution, ...]:
        """The executions of its group, itself among them; itself alone without a group."""
        if not self.members:
            return (self,)
        return tuple(
            Execution(run, fault, self.repetition, self.group, self.members)
            for run, fault in self.members
        )

    @property
    def title(self) -> str:
        """What runs, in a few words."""
        return describe(self.run) + (f", fault {self.fault.fault}" if self.fault else "")


def ahead(
    items: Iterable[Gate | Falsifier], obstacle: Callable[[Gate], str | None]
) -> Iterator[tuple[Execution, str]]:
    """The executions that items will ask for one after the other, each with the gate it is for.

    Only of gates that this machine can execute; `obstacle` says why it cannot.
    """
    for item in items:
        gate = _gate_of(item)
        programs = CommandRun | RecordedRun
        if gate is None or all(isinstance(run, programs) for run in gate.runs.values()):
            continue
        try:
            if obstacle(gate) is not None:
                continue
        except GatesError:  # it is told where the item is due
            continue
        fault = item.fault if isinstance(item, Falsifier) else None
        sabotaged = [fault] if fault is not None and not isinstance(fault, Planted) else []
        for one in (*sabotaged, None):
            for many in executions(gate, one).values():
                for execution in many:
                    source = execution.source
                    yield from [(source, gate.id)] if source is not None else ()
                    yield execution, gate.id


def _gate_of(item: Gate | Falsifier) -> Gate | None:
    """The gate that an item judges, if there is anything to execute."""
    gate = item if isinstance(item, Gate) else item.gate
    return None if gate is None or gate.prose else gate


def timed_runs(items: Iterable[Gate | Falsifier]) -> frozenset[str]:
    """Hashes of the runs of gates whose outcome depends on what else the machine does."""
    gates = (gate for item in items if (gate := _gate_of(item)) is not None)
    timed = (gate for gate in gates if any(check.timed() for check in gate.checks))
    return frozenset(run_hash(run) for gate in timed for run in gate.runs.values())


def bears_company(execution: Execution, timed: Collection[str]) -> bool:
    """Whether other executions may go on beside this one, and it may begin before it is asked for.

    Not where time is what is judged, where a GPU is asked for, where the model is so large that two
    may not fit into memory, and where a program of the team's own runs: what that reads, and what
    it leaves, is known to those who put it into their order.
    """
    run = execution.run
    if isinstance(run, CommandRun | RecordedRun):
        return False
    if isinstance(run, ProbeRun):
        return run.host.cuda != "visible"
    small = run.architecture is not None and run.architecture.parameters <= LARGE
    alone = run.device != "cpu" or execution.group is not None or run_hash(run) in timed
    return small and not alone


def processes_of(run: Run) -> int:
    """Processes of the run on this machine."""
    launch = declared_launch(run)
    return 1 if launch is None else launch.processes


def threads_of(run: Run) -> int:
    """CPU threads of all processes of a run."""
    if isinstance(run, ProbeRun | RecordedRun):
        return 1
    return run.threads * processes_of(run)


def executions(gate: Gate, fault: Fault | None = None) -> Mapping[str, tuple[Execution, ...]]:
    """The executions that judge a gate, by the name of their run.

    A fault is injected into every run of the gate that it can apply to.
    """
    groups = {name: names for check in gate.checks for names in check.groups() for name in names}
    return {
        name: tuple(
            _execution(gate, fault, name, repetition, groups.get(name, ()))
            for repetition in range(gate.repeats[name])
        )
        for name in gate.runs
    }


def _execution(
    gate: Gate, fault: Fault | None, name: str, repetition: int, names: Sequence[str]
) -> Execution:
    run = gate.runs[name]
    members = tuple((gate.runs[one], _fitting(fault, gate.runs[one])) for one in names)
    if not members:
        return Execution(run, _fitting(fault, run), repetition)
    hashed = [
        [run_hash(one), None if fitting is None else fitting.model_dump(mode="json")]
        for one, fitting in members
    ]
    return Execution(run, _fitting(fault, run), repetition, digest(hashed), members)


def _fitting(fault: Fault | None, run: Run) -> Fault | None:
    return None if fault is None or misfit(fault, run) is not None else fault


def describe(run: Run) -> str:
    """A run in a few words, for people."""
    if isinstance(run, RecordedRun):
        return f"recorded {', '.join(file.path for file in run.files)}"
    if isinstance(run, ProbeRun):
        return "probe" + _hidden(run)
    if isinstance(run, CommandRun):
        ranks = "" if run.launch is None else f", {_count(run.ranks)}"
        return f"command {_words(run)} on {run.device}{_hidden(run)}{ranks}"
    model = _model(run)
    if isinstance(run, ForwardRun):
        beside = "" if run.against is None else f" against {run.against.weights or 'float64'}"
        return f"forward {model} on {run.device}{_hidden(run)}{beside}"
    assert isinstance(run, PretrainRun)
    resumed = ", resumed" if run.resume is not None else ""
    shape = f"{run.steps} steps of {run.batch_size} x {run.seq_len}"
    ranks = ""
    if run.launch is not None:
        ranks = f", {run.parallel} over {_count(run.ranks)}"
    place = f"{model} on {run.device}{_hidden(run)}"
    return f"pretrain {place}, {shape}{ranks}{_stimulus(run)}{resumed}"


def _count(ranks: int) -> str:
    return f"{ranks} rank{'s' * (ranks != 1)}"


def _stimulus(run: PretrainRun) -> str:
    told = run.stimulus
    if told is None:
        return ""
    if isinstance(told, FlippedBit | ValidationLoss):
        return f", {told.kind} at epoch {told.epoch}"
    where = "" if run.launch is None or isinstance(told, DataEnd) else f" of rank {told.rank}"
    return f", {told.kind} at step {told.step}{where}"


def _model(run: PretrainRun | ForwardRun) -> str:
    if isinstance(run.model, str):
        return run.model
    if run.architecture is None:
        assert isinstance(run, ForwardRun)
        return str(run.weights)
    return f"{run.architecture.parameters:,} parameters"


def _words(run: CommandRun) -> str:
    """The program and as many of its arguments as people want to read."""
    said = " ".join(run.argv)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}…"


def _hidden(run: PretrainRun | ForwardRun | ProbeRun | CommandRun) -> str:
    return " (CUDA hidden)" if run.host.cuda == "hidden" else ""
